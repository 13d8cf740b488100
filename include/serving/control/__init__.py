"""Brings what is served to what the ledger says."""
