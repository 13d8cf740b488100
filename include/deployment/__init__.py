"""Who is champion: the gate, the Bento, the ledger."""
