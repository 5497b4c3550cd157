"""Plan and run: which rule where, forward values, backward messages, the ledger."""
