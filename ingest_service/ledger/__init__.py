"""The ledger: every attempt to load, the newest applied version of every object, rejects and Populate requests."""
