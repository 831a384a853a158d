"""Reconcile: what notifications did not tell. The bucket's listing against the ledger, both ways, through the same load
path as events. Never the first to load: events go before it."""
