"""The filter language of AIP-160: text -> syntax tree -> conditions that are checked against a dataset.

Pure. Nothing of the text ever becomes SQL: names are looked up in the contract, values are converted and bound.
"""
