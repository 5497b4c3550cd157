"""A plugin made by hand, whose rule takes and gives relevance: it puts any relevance wanted on an op's outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlbt_core as dlbt
from dlbt_core.plugins.hookspecs import PluginInfo, hookimpl
from dlbt_core.plugins.loader import Plugins
from oracles.harness import Case, floating, source


class ProbePlugin:
    @hookimpl
    def dlbt_plugin_info(self) -> PluginInfo:
        return PluginInfo(rule_api="1.0", summary="relevance by decree")

    @hookimpl
    def dlbt_register_rules(self, add: Any) -> None:
        @add.rule("aten.linear", variant="probe", takes="relevance", reads=())
        def probe(ctx: Any, R: Tensor) -> dict[str, Tensor]:
            """R_i = w_i R, with weights that sum to 1."""
            return {"input": R @ ctx.args["weight"]}


def plugins_with_probe() -> Plugins:
    found = Plugins()
    found.add(ProbePlugin(), "testplugin")
    return found


class Probed(nn.Module):
    """An op, and a linear map of all that it gives."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        weights = source(77)(1, sum(z.numel() for z in case.outputs()))
        weights[0, -1] += 1.0 - weights.sum()
        self.register_buffer("weights", weights)

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        inputs = [t for t in (a, b, c) if t is not None]
        outs = floating(self.case.call(*[inputs[i] for i in self.case.places]))
        flat = torch.cat([z.reshape(-1).double() for z in outs])
        return F.linear(flat[None], self.weights)


def probe(case: Case, variant: str, plugins: Plugins) -> tuple[Any, list[Tensor]]:
    """The explanation with messages in relevance form, and the relevance that arrives at the op's outputs."""
    model = Probed(case)
    explanation = dlbt.explain(
        model, *case.inputs, target=0, composite="attnlrp", layers="none", audit=True, plugins=plugins,
        explain_inputs=list("abc"[: len(case.inputs)]),
        rules=[(dlbt.Select(op="aten.linear"), dlbt.Use("testplugin:probe")), (dlbt.Select(op=case.op), dlbt.Use(variant))],
    )  # fmt: skip
    decreed = (explanation.score[0].double() * model.weights[0]).split([z.numel() for z in case.outputs()])
    return explanation, [r.reshape(z.shape) for r, z in zip(decreed, case.outputs(), strict=True)]
