"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "CompositeName",
    "Explained",
    "Inputs",
    "Model",
    "OptionalModel",
    "Rules",
    "Seed",
    "TargetText",
    "Text",
]

_MODEL = "package.module:name, path/to/file.py:name, torchvision:NAME or a folder of transformers."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help=f"The model: {_MODEL}")]
OptionalModel = Annotated[str | None, typer.Option("--model", help=f"The model for names of composites: {_MODEL}")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="A random input: 1x3x224x224, or input_ids=1x12:int64 by name. Repeatable, in order."),
]
Text = Annotated[str | None, typer.Option("--text", help="What a folder's model of text is given.")]
Seed = Annotated[int, typer.Option("--seed", help="Of random inputs and weights.", min=0, max=2**32 - 1)]
TargetText = Annotated[
    str | None, typer.Option("--target", help="A class, token:POSITION[:ID], output:PATH[:CLASS], or sum.")
]
CompositeName = Annotated[str, typer.Option("--composite", help="Which rule where: a name, or a TOML file.")]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", help="A choice in front: 'op=aten.linear module=encoder.* variant=gamma gamma=0.1'. Repeatable."
    ),
]
Explained = Annotated[list[str] | None, typer.Option("--explain", help="An input to explain. Repeatable.")]
