"""Relevance rules for vision models: convolution, pooling, batch norm. A plugin of dlbt-core."""

__version__ = "0.1.0"
