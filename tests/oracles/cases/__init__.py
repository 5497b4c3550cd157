"""One-op models for every registered rule, each with the oracle that says what it must hand back."""
