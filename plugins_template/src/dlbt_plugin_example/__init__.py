"""Relevance rules of a plugin for dlbt."""
