"""Staging and the delta merge: rows of an object become rows of its dataset, exactly once."""
