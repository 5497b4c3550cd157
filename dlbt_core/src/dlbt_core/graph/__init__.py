"""What the model did: recorded runs as immutable graphs."""
