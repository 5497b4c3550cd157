"""What an explanation costs, as a ratio to forward + input gradient by autograd, interleaved in one run.

Run with ``make bench``, or ``python benchmarks/run.py --repeats 15 resnet50``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from shapes import SHAPES, Shape
from timing import interleaved
from torch import Tensor, nn

import dlbt_core as dlbt

LIMIT = 1.4
FIRST_LIMIT = 0.5


def prepared(shape: Shape, device: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = shape.build().to(device).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, {name: tensor.to(device) for name, tensor in shape.inputs().items()}


def autograd(shape: Shape, model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], Any]:
    """Forward and gradient by the input; by the embedded tokens for ids."""

    def run() -> Tensor:
        if "input_ids" in inputs:
            table: Any = model.get_input_embeddings
            embedded = table()(inputs["input_ids"]).requires_grad_()
            out = model(inputs_embeds=embedded)
            return torch.autograd.grad(shape.score(out), embedded)[0]
        x = inputs["x"].clone().requires_grad_()
        return torch.autograd.grad(shape.score(model(x)), x)[0]

    return run


def steady(names: list[str], repeats: int, device: str) -> Table:
    table = Table(title=f"eager explanation / (forward + input gradient), {device}, {torch.get_num_threads()} threads")
    for column in ("model", "forward + gradient", "default", "layers='none'", "audit", "gradient_times_input", "limit"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in names:
        shape = SHAPES[name]
        model, inputs = prepared(shape, device)
        target = dlbt.target.token(-1) if shape.language_model else None
        explainers = {
            "default": dlbt.Explainer(model),
            "none": dlbt.Explainer(model, layers="none"),
            "audit": dlbt.Explainer(model, audit=True),
            "gxi": dlbt.Explainer(model, "gradient_times_input"),
        }
        runs: dict[str, Callable[[], Any]] = {"autograd": autograd(shape, model, inputs)}
        runs |= {n: (lambda e=e, i=inputs, t=target: e(**i, target=t)) for n, e in explainers.items()}
        times = interleaved(runs, repeats)
        base = times.pop("autograd")
        table.add_row(name, f"{base * 1e3:.0f} ms", *(f"{t / base:.2f}" for t in times.values()), f"{LIMIT}")
    return table


def first(repeats: int, device: str) -> Table:
    table = Table(title="first explanation of a new model (record + plan + run) over a plain forward")
    for column in ("model", "forward", "first explanation", "over a forward", "limit"):
        table.add_column(column, justify="left" if column == "model" else "right")
    shape = SHAPES["resnet18 224px"]
    model, inputs = prepared(shape, device)

    def forward() -> Any:
        with torch.no_grad():
            return model(**inputs)

    times = interleaved({"forward": forward, "first": lambda: dlbt.Explainer(model)(**inputs)}, repeats)
    over = times["first"] - times["forward"]
    table.add_row(shape.name, f"{times['forward'] * 1e3:.0f} ms", f"{times['first'] * 1e3:.0f} ms", f"{over:.2f} s",
                  f"{FIRST_LIMIT} s")  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="parts of names; all unless given")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    names = [n for n in SHAPES if not arguments.models or any(part in n for part in arguments.models)]
    console = Console(width=140)
    console.print(steady(names, arguments.repeats, arguments.device))
    console.print(first(arguments.repeats, arguments.device))


if __name__ == "__main__":
    main()
