"""Shared by all tests."""

from __future__ import annotations

import importlib

import pytest

if getattr(importlib.import_module("dlbt_core"), "__file__", None) is None:
    raise pytest.UsageError("dlbt_core is the folder, not the package: nothing is installed here. Run: make test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Zoo entries of torchvision get its marker, so that ``-m "not torchvision"`` deselects them."""
    from zoo import ZOO

    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
        if name in ZOO and ZOO[name].needs == "torchvision":
            item.add_marker(pytest.mark.torchvision)
