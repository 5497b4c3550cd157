"""Plugins: who brought the rules."""
