"""What a long text costs: memory and time of an explanation over those of forward + input gradient by autograd.

Each is measured in a process of its own, which builds the model, runs once on a few tokens (what is loaded at first use
should not count), notes its resident memory, and then runs once on the long text, recording included. Memory is the highest
resident memory of the process less what it was before, so the weights are left out. Run with ``make bench-long``, or

    python benchmarks/long_input.py --tokens 2048 --composites auto cp_lrp

Exits with 1 if an explanation takes more than 1.3 times the memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import seconds
from torch import Tensor, nn

import dlbt_core as dlbt

LIMIT = 1.3
VOCABULARY = 32000
GRADIENT = "forward + gradient"


def llama(tokens: int) -> nn.Module:
    """8 layers of 512, with fused attention; random weights that take no gradient."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1376,
        vocab_size=VOCABULARY, max_position_embeddings=tokens, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def gradient(model: Any, ids: Tensor) -> Tensor:
    """The gradient of the likeliest next token by the embedded text."""
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    return torch.autograd.grad(logits[:, -1].amax(-1).sum(), embedded)[0]


def explanation(model: Any, composite: str) -> Callable[[Tensor], Any]:
    """An explanation of the likeliest next token, without the relevance of layers."""
    explainer = dlbt.Explainer(model, composite, layers="none")
    return lambda ids: explainer(input_ids=ids, target=dlbt.target.token(-1))


def resident() -> int:
    """Bytes of memory that the process holds now; where the system does not tell, the most it has held."""
    known = Path("/proc/self/statm")
    return int(known.read_text().split()[1]) * resource.getpagesize() if known.exists() else highest()


def highest() -> int:
    """The most bytes of memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(what: str, tokens: int, threads: int) -> dict[str, float]:
    """Megabytes and seconds of one run, and seconds of a second one."""
    torch.set_num_threads(threads)
    model = llama(tokens)
    run = (lambda ids: gradient(model, ids)) if what == GRADIENT else explanation(model, what)
    run(torch.randint(0, VOCABULARY, (1, 16)))
    ids = torch.randint(0, VOCABULARY, (1, tokens))
    before = resident()
    first = seconds(lambda: run(ids))
    peak = highest() - before
    return {"memory": peak / 2**20, "first": first, "again": seconds(lambda: run(ids))}


def in_a_process(what: str, tokens: int, threads: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--tokens", str(tokens), "--threads", str(threads), "--only", what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--composites", nargs="+", default=["auto"])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.only:
        print(json.dumps(measured(given.only, given.tokens, given.threads)))
        return 0
    found = {what: in_a_process(what, given.tokens, given.threads) for what in (GRADIENT, *given.composites)}
    base = found[GRADIENT]
    table = Table(title=f"{given.tokens} tokens, Llama of 8 layers x 512, CPU, {given.threads} threads")
    for column in ("", "peak MB", "ratio", "limit", "first s", "ratio", "again s", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for what, row in found.items():
        ratios = {key: f"{row[key] / base[key]:.2f}" for key in row}
        table.add_row(
            what, f"{row['memory']:.0f}", ratios["memory"], "" if row is base else f"{LIMIT}",
            f"{row['first']:.1f}", ratios["first"], f"{row['again']:.1f}", ratios["again"],
        )  # fmt: skip
    Console(width=140).print(table)
    return int(any(row["memory"] > LIMIT * base["memory"] for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
