"""Composites: which rule where."""
