"""Slow, dense re-implementations of every rule in float64, straight from the papers' formulas on relevances."""
