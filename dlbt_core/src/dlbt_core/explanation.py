"""The result: relevance of inputs and layers, the score, the ledger and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dlbt_core.errors import DlbtError
from dlbt_core.experts import Experts
from dlbt_core.scheduler.ledger import Ledger

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """What made the output what it is.

    Attributes
    ----------
    inputs : mapping of str to Tensor
        Relevance per explained input, shaped like it; for token ids shape (B, T).
    score : Tensor
        What was explained, shape (B,).
    ledger : Ledger
        What was absorbed, where and by what.
    plan : Plan or PlanRecord
        Which rule ran where, and why.
    target : str
        What was explained, in words.
    picked : list
        What the target left open and the outputs decided, e.g. the argmax class of each sample.
    outputs : mapping of str to Tensor
        The model's outputs by path.
    layers : mapping of str to Tensor
        Relevance of module outputs and nodes: ``"encoder.layer.3"``; ``"block#1"`` for the second call of a module and
        ``"lstm:1.0"`` for one of several outputs. Read it with `at`.
    values : mapping of str to Tensor
        The explained inputs themselves: pixels, token ids, numbers.
    multipliers : mapping of str to Tensor
        The same relevance over the input, m in R = x m, where the last rule handed on multipliers: under
        ``gradient_times_input`` the gradient, under ``guided_backprop`` the gradient as that method changes it.
    experts : Experts
        For mixtures of experts: what each expert contributed, per layer, sample and token, and what the router got; by the
        path of the module that holds them. Kept unless ``layers="none"``.
    streams : mapping of str to Explanation
        Under a composite with two coupled streams, such as ``dlb_contrastive``: the explanation of the other one, by name.
    """

    inputs: Mapping[str, Tensor]
    score: Tensor
    ledger: Ledger
    plan: Any
    target: str
    picked: list[Any] = field(default_factory=list)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    multipliers: Mapping[str, Tensor] = field(default_factory=dict)
    experts: Experts = field(default_factory=Experts)
    streams: Mapping[str, Explanation] = field(default_factory=dict)

    def at(self, name: str, call: int | None = None) -> Tensor:
        """Relevance of a module's output, or of a node's.

        Parameters
        ----------
        name : str
            Path of the module, as in ``model.named_modules()``, or name of a node of the plan.
        call : int, optional
            Which call, for a module that ran several times.

        Raises
        ------
        DlbtError
            If there is no such layer, or it ran several times and `call` does not say which.
        """
        key = name if not call else f"{name}#{call}"
        if call is None and f"{name}#1" in self.layers:
            count = sum(k == name or k.startswith(f"{name}#") for k in self.layers)
            raise DlbtError(f"module {name!r} ran {count} times.\n  fix  at({name!r}, call=0) to call={count - 1}.")
        if key in self.layers:
            return self.layers[key]
        several = [k for k in self.layers if k.startswith(f"{key}:")]
        if len(several) == 1:
            return self.layers[several[0]]
        if several:
            raise DlbtError(
                f"module {name!r} has several outputs.\n  fix  at() one of: {', '.join(map(repr, several))}."
            )
        import difflib

        near = difflib.get_close_matches(name, list(self.layers), 3)
        hint = f" Close: {', '.join(map(repr, near))}." if near else ""
        raise DlbtError(
            f"no relevance was kept for {name!r}.{hint}\n  fix  explain(..., layers='modules') keeps every module's output, "
            "layers='all' every node's, layers=['encoder.*'] those that match; 'blocks', the default, those of modules made "
            "of other modules."
        )

    @property
    def relevance(self) -> Tensor:
        """The relevance of the only explained input.

        Raises
        ------
        DlbtError
            If several inputs were explained.
        """
        if len(self.inputs) != 1:
            raise DlbtError(f"several inputs were explained: {', '.join(map(repr, self.inputs))}; use .inputs[name].")
        return next(iter(self.inputs.values()))

    def save(self, path: str | Path, *, layers: bool = True) -> Path:
        """Write to a safetensors file with JSON metadata; `dlbt.load` reads it. Nothing is pickled."""
        from dlbt_core.storage import save

        return save(self, path, layers=layers)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write a self-contained HTML page. See `dlbt_core.show.page.write_page` for the options."""
        from dlbt_core.show.page import write_page

        return write_page([self], path, **options)

    def _repr_html_(self) -> str:
        from dlbt_core.show.notebook import fragment

        return fragment([self])

    def rows(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Per sample: number, score, and the sum over each input."""
        for sample, score in enumerate(self.score.tolist()):
            yield sample, score, {k: float(v[sample]) for k, v in self.ledger.inputs.items()}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(r.shape)}" for name, r in self.inputs.items())
        scores = ", ".join(f"{s:.4g}" for s in self.score.tolist()[:4]) + (", ..." if self.score.numel() > 4 else "")
        absorbed = (
            ", ".join(f"{k} {float(v.sum()):+.3g}" for k, v in list(self.ledger.absorbed.items())[:4]) or "nothing"
        )
        return (
            f"<Explanation of {self.target}: score {scores}; inputs {shapes}; absorbed {absorbed}; "
            f"ledger error {self.ledger.error:.1e}; {self.plan!r}>"
        )

    def __str__(self) -> str:
        lines = [f"explanation of {self.target}", f"  composite {self.plan.composite_name}"]
        for name, relevance in self.inputs.items():
            r = relevance.detach()
            lines.append(
                f"  input {name} {tuple(r.shape)}: sum {float(r.sum()):+.4g}, "
                f"from {float(r.min()):+.4g} to {float(r.max()):+.4g}"
            )
        return "\n".join([*lines, str(self.ledger)])
