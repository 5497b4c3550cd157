"""Interleaved timing, shared by the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each, all taking turns."""
    for function in functions.values():
        for _ in range(warm_up):
            function()
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            taken[name].append(seconds(function))
    return {name: statistics.median(times) for name, times in taken.items()}
