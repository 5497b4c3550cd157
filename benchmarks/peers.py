"""What a preset costs here and in other packages, as a ratio to forward + input gradient, all interleaved in one run.

ResNet-18 and VGG-11, 224 px, batch of one, two threads: ``epsilon_plus`` and ``epsilon_gamma_box`` beside Zennit's EpsilonPlus
and EpsilonGammaBox with its canonizer, and Captum's LRP, which has epsilon only, where it works. Run with ``make bench``, or
``python benchmarks/peers.py --repeats 15 resnet18``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from run import autograd, prepared
from shapes import SHAPES
from timing import interleaved
from torch import Tensor, nn

import dlbt_core as dlbt

LOW, HIGH = -2.1, 2.6
PRESETS = {"epsilon_plus": "EpsilonPlus", "epsilon_gamma_box": "EpsilonGammaBox"}
LIMITS = {"epsilon_plus": 2.0, "epsilon_gamma_box": 3.5}
MODELS = ("resnet18 224px", "vgg11 224px")

Run = Callable[[], Any]


def ours(model: nn.Module, x: Tensor, name: str) -> Run:
    """Ready to be called again and again: recorded and planned once, weights derived once."""
    box = {"low": LOW, "high": HIGH} if name == "epsilon_gamma_box" else {}
    explainer = dlbt.Explainer(model, dlbt.composite(name, **box), layers="none")
    return lambda: explainer(x)


def zennit(model: nn.Module, x: Tensor, name: str) -> Run:
    """As its documentation has it: the composite is entered once, so canonisation is not in the time."""
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    box = {"low": LOW, "high": HIGH} if name == "epsilon_gamma_box" else {}
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    composite = getattr(composites, PRESETS[name])(canonizers=[ResNetCanonizer() if norms else VGGCanonizer()], **box)

    def run() -> Any:
        with Gradient(model=model, composite=composite) as attributor:
            return attributor(x, lambda out: torch.nn.functional.one_hot(out.argmax(1), out.shape[1]).to(out))

    return run


def captum(model: nn.Module, x: Tensor) -> Run:
    """Captum's LRP with its defaults: epsilon everywhere."""
    from captum.attr import LRP

    warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
    method = LRP(model)
    with torch.no_grad():
        target = model(x).argmax(1)
    return lambda: method.attribute(x.clone().requires_grad_(), target=target)


def works(run: Run) -> str:
    """Empty if it works, else why not."""
    try:
        run()
    except Exception as error:  # whatever another package raises
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:60]
    return ""


def measured(name: str, repeats: int, table: Table) -> None:
    """All packages on one model, taking turns."""
    from copy import deepcopy

    shape = SHAPES[name]
    model, inputs = prepared(shape, "cpu")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # Captum cannot explain in-place ops
    x = inputs["x"]
    runs: dict[str, Run] = {"gradient": autograd(shape, model, inputs)}
    for preset in PRESETS:
        runs[f"dlbt {preset}"] = ours(model, x, preset)
        runs[f"zennit {PRESETS[preset]}"] = zennit(deepcopy(model), x, preset)
    runs["dlbt epsilon"] = ours(model, x, "epsilon")
    runs["captum epsilon"] = captum(deepcopy(model), x)
    failures = {label: why for label, run in runs.items() if (why := works(run))}
    times = interleaved({label: run for label, run in runs.items() if label not in failures}, repeats)
    base = times["gradient"]
    for preset, other in (*((p, f"zennit {z}") for p, z in PRESETS.items()), ("epsilon", "captum epsilon")):
        here, there = times.get(f"dlbt {preset}"), times.get(other)
        table.add_row(
            name, preset, f"{base * 1e3:.0f} ms",
            failures.get(f"dlbt {preset}", "") if here is None else f"{here / base:.2f}",
            f"{other}: {failures[other]}" if there is None else f"{other}: {there / base:.2f}",
            str(LIMITS.get(preset, "")),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="parts of names; all unless given")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title=f"time / (forward + input gradient), cpu, {torch.get_num_threads()} threads, medians")
    for column in ("model", "composite", "forward + gradient", "dlbt", "other package", "limit"):
        table.add_column(column, justify="left" if column in ("model", "composite") else "right")
    for name in MODELS:
        if not arguments.models or any(part in name for part in arguments.models):
            measured(name, arguments.repeats, table)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
