"""Relevance rules for language models: embedding, attention, softmax, norms. A plugin of dlbt-core."""

__version__ = "0.1.0"
