"""Saving and loading explanations: safetensors for numbers, JSON in its metadata for the rest. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dlbt_core.errors import FileFormatError
from dlbt_core.experts import ExpertRelevance, Experts
from dlbt_core.explanation import Explanation
from dlbt_core.scheduler import plan as plans
from dlbt_core.scheduler.ledger import Account, Ledger
from dlbt_core.scheduler.plan import summarise

__all__ = ["PlanRecord", "load", "read_plan", "save"]

_FORMAT = "dlbt-explanation"
_VERSION = 1
_OF_EXPERTS = ("per_token", "router", "weights")


@dataclass(frozen=True)
class PlanRecord:
    """A plan as it was saved: what ran where, without the rules themselves.

    Attributes
    ----------
    composite_name
        What the composite was called.
    steps
        One row per node, as `Plan.table` gives them.
    """

    composite_name: str
    steps: tuple[Mapping[str, Any], ...]

    def table(self) -> list[Mapping[str, Any]]:
        """One plain row per node."""
        return list(self.steps)

    def summary(self) -> list[tuple[str, str, int]]:
        """(rule with parameters, reason, number of nodes), most frequent first."""
        return summarise(self.steps)

    def __str__(self) -> str:
        rows = [f"  {r['node']}  {r['rule']}  [{r['reason']}]  {r['module']}" for r in self.steps]
        return "\n".join([f"plan: {len(self.steps)} nodes, composite {self.composite_name}", *rows])

    def __repr__(self) -> str:
        return f"<PlanRecord of {len(self.steps)} nodes, composite {self.composite_name!r}>"


def save(explanation: Explanation, path: str | Path, *, layers: bool = True) -> Path:
    """Write an explanation to a file.

    Parameters
    ----------
    explanation : Explanation
        What to save.
    path : str or Path
        The file, usually ``*.safetensors``.
    layers : bool
        Whether to save the relevance of layers, too.
    """
    tensors, about = _taken_apart(explanation, layers)
    metadata = {"format": _FORMAT, "version": str(_VERSION), "about": json.dumps(about)}
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, str(path), metadata)
    return Path(path)


def _taken_apart(explanation: Explanation, layers: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An explanation as named tensors, and all else as plain values."""
    ledger = explanation.ledger
    tensors: dict[str, Tensor] = {"score": ledger.score}
    groups = {
        "input": explanation.inputs,
        "value": explanation.values,
        "multiplier": explanation.multipliers,
        "output": explanation.outputs,
        "sum": ledger.inputs,
        "unassigned": ledger.unassigned,
        "layer": explanation.layers if layers else {},
    }
    for group, items in groups.items():
        tensors.update({f"{group}/{name}": tensor for name, tensor in items.items()})
    for index, layer in enumerate(explanation.experts.values()):
        tensors.update({f"experts/{index}/{name}": getattr(layer, name) for name in _OF_EXPERTS})
    accounts = []
    for index, account in enumerate(ledger.accounts):
        accounts.append({"node": account.node, "op": account.op, "module": account.module})
        for kind, tensor in (("received", account.received), ("handed_on", account.handed_on)):
            if tensor is not None:
                tensors[f"account/{index}/{kind}"] = tensor
        tensors.update({f"account/{index}/absorbed/{name}": t for name, t in account.absorbed.items()})
        tensors.update({f"account/{index}/unassigned/{name}": t for name, t in account.unassigned.items()})
    about = {
        "target": explanation.target,
        "picked": json.loads(json.dumps(explanation.picked)),
        "composite": explanation.plan.composite_name,
        "plan": explanation.plan.table(),
        "accounts": accounts,
        "experts": list(explanation.experts),
        "audited": ledger.audited,
        "resolution": ledger.resolution,
        "streams": {},
    }
    for name, stream in explanation.streams.items():
        more, about["streams"][name] = _taken_apart(stream, layers)
        tensors.update({f"stream/{name}/{key}": tensor for key, tensor in more.items()})
    return tensors, about


def load(path: str | Path) -> Explanation:
    """Read an explanation that was saved. The plan comes back as a record: it can be read, not run.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is damaged, or not a saved explanation.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.\n  fix  a file that Explanation.save() has written.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise FileFormatError(
                    f"{path} is a safetensors file, but not a saved explanation of dlbt.\n"
                    "  fix  a file that Explanation.save() has written."
                )
            if int(metadata["version"]) > _VERSION:
                raise FileFormatError(
                    f"{path} has format version {metadata['version']}, this dlbt-core reads up to {_VERSION}.\n"
                    "  fix  update dlbt-core."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(metadata["about"])
            return _assemble(tensors, about)
    except FileFormatError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} is damaged or not a saved explanation: {type(error).__name__}: {error}\n"
            "  fix  write it again with Explanation.save()."
        ) from error


def _assemble(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Explanation:
    def group(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + "/")}

    accounts = tuple(
        Account(
            entry["node"], entry["op"], entry["module"],
            tensors.get(f"account/{i}/received"), tensors.get(f"account/{i}/handed_on"),
            group(f"account/{i}/absorbed"), group(f"account/{i}/unassigned"),
        )
        for i, entry in enumerate(about["accounts"])
    )  # fmt: skip
    ledger = Ledger(
        tensors["score"], group("sum"), accounts, group("unassigned"), about["audited"], about["resolution"]
    )
    picked = [tuple(p) if isinstance(p, list) else p for p in about["picked"]]
    return Explanation(
        inputs=group("input"),
        score=tensors["score"],
        ledger=ledger,
        plan=PlanRecord(about["composite"], tuple(about["plan"])),
        target=about["target"],
        picked=picked,
        outputs=group("output"),
        layers=group("layer"),
        values=group("value"),
        multipliers=group("multiplier"),
        experts=Experts([
            ExpertRelevance(name, *(tensors[f"experts/{i}/{part}"] for part in _OF_EXPERTS))
            for i, name in enumerate(about.get("experts", ()))
        ]),
        streams={name: _assemble(group(f"stream/{name}"), more) for name, more in about.get("streams", {}).items()},
    )


def read_plan(path: str | Path) -> PlanRecord:
    """Read a plan: one that `Plan.to_json` or ``dlbt plan --out`` wrote, or that of a saved explanation.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file is a saved explanation; any other is a plan in JSON.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is damaged, or holds no plan.
    """
    if Path(path).suffix == ".safetensors":
        found = load(path).plan
        return PlanRecord(found.composite_name, tuple(found.table()))
    try:
        about = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.get("format") != plans.FORMAT:
            raise FileFormatError(f"{path} is not a saved plan.\n  fix  a file that 'dlbt plan ... --out' has written.")
        if int(about["version"]) > plans.VERSION:
            raise FileFormatError(
                f"{path} has format version {about['version']}, this dlbt-core reads up to {plans.VERSION}.\n"
                "  fix  update dlbt-core."
            )
        name = about["composite"] + (f" ({about['note']})" if about["note"] else "")
        steps = tuple({**row, "parameters": dict(row["parameters"])} for row in about["steps"])
        if not all({"node", "op", "rule", "reason", "module"} <= set(row) for row in steps):
            raise KeyError("steps")
        return PlanRecord(name, steps)
    except (FileFormatError, FileNotFoundError):
        raise
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} is damaged or not a saved plan: {type(error).__name__}: {error}\n"
            "  fix  write it again with 'dlbt plan ... --out'."
        ) from error
