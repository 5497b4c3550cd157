"""One op, handed back: rules, op keys, the registry."""
