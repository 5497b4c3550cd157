"""Models the tests and benchmarks run on: real architectures with random, widened weights, and small tricky ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes
    ----------
    build
        Makes the model, in float32 and eval mode.
    inputs
        Makes the inputs for a batch of the given size.
    needs
        A package that must be installed besides torch: ``"torchvision"``, ``"transformers"`` or nothing.
    half_float
        Whether the model itself computes parts in float32, whatever its dtype.
    target
        What to explain.
    seed
        Of weights and inputs; one whose scores do not nearly cancel, since float32 rounds the score itself.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    needs: str = ""
    half_float: bool = False
    target: Any = None
    seed: int = 0


# -- small tricky ones --------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + f(x), functional."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.relu(self.a(x))
        return self.head(x + torch.tanh(self.b(x)))


class Twice(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(x)) if x.sum() > 0 else torch.sigmoid(self.down(x))
        for _ in range(int(x.abs().mean().item() * 0) + 2):
            x = x * 1.5
        return self.head(x)


class InPlace(nn.Module):
    """In-place ops, slice writes, writes through views."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(4, 4), nn.Linear(8, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        h = self.a(x)
        h.mul_(1.5).add_(x, alpha=0.5).relu_()
        out = torch.zeros_like(h)
        out[:, :4] = self.b(h[:, 4:])
        view = out.view(-1, 2, 4)
        view[:, 1] = h[:, :4] * 2
        out[:, 0].mul_(3)
        out[:, 4:].add_(out[:, :4])
        return self.head(out.masked_fill_(out > 1e6, 0.0))


class TwoInputs(nn.Module):
    """Two inputs, a nested dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, *, context: dict[str, Tensor]) -> dict[str, Any]:
        hidden = torch.relu(self.a(x)) * torch.sigmoid(self.b(context["c"])) + self.b(context["c"])
        return {"logits": self.head(hidden), "extra": {"hidden": (hidden, hidden.sum())}}


def _small(kind: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: kind().eval()


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4)).eval()


def _vector(batch: int) -> Inputs:
    return {"x": torch.randn(batch, 8)}


# -- torchvision --------------------------------------------------------------------------------------------------------


def widen(model: nn.Module, std: float = 0.1) -> nn.Module:
    """Draw all weight matrices anew, wide enough that activations do not vanish; norms get weights near 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, max(std, 0.7 * parameter[0].numel() ** -0.5))
            elif "weight" in name:
                parameter.uniform_(0.7, 1.3)
            else:
                parameter.normal_(0.0, 0.1)
    return model.eval()


def calibrated(model: nn.Module, size: int) -> nn.Module:
    """Batch norm statistics from random data, so that eval mode sees what it would see after training."""
    momenta = {}
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            momenta[module], module.momentum = module.momentum, None
            module.reset_running_stats()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        model(torch.randn(8, 3, size, size))
    for module, momentum in momenta.items():
        module.momentum = momentum
    return model.eval()


def _torchvision(name: str, size: int = 64, calibrate: bool = True, **options: Any) -> Entry:
    def build() -> nn.Module:
        from torchvision import models

        model = getattr(models, name)(weights=None, **options)
        if name.startswith("vit"):
            return widen(model, 0.05)
        return calibrated(model, size) if calibrate else model.eval()

    def inputs(batch: int) -> Inputs:
        return {"x": torch.randn(batch, 3, size, size)}

    return Entry(build, inputs, "torchvision")


# -- transformers -------------------------------------------------------------------------------------------------------

_TEXT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64,
    "max_position_embeddings": 32,
}  # fmt: skip


def _hf(config: str, model: str, *, std: float = 0.3, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return widen(getattr(transformers, model)(getattr(transformers, config)(**options)), std)

    return build


def ids(batch: int, length: int = 7) -> Inputs:
    """Token ids; 0 to 3 are left out, since they may be special."""
    return {"input_ids": torch.randint(4, 64, (batch, length))}


def pixels(size: int) -> Callable[[int], Inputs]:
    """Random images."""
    return lambda batch: {"pixel_values": torch.randn(batch, 3, size, size)}


def _last_token() -> Any:
    from dlbt_core import target

    return target.token(-1)


def _text(config: str, model: str, **options: Any) -> Entry:
    return Entry(_hf(config, model, **{**_TEXT, **options}), ids, "transformers")


def _decoder(config: str, model: str, half_float: bool, **options: Any) -> Entry:
    return Entry(_hf(config, model, **options), ids, "transformers", half_float, _last_token)


ZOO: dict[str, Entry] = {
    "mlp": Entry(_mlp, lambda batch: {"input": torch.randn(batch, 8)}),
    "residual_mlp": Entry(_small(Residual), _vector),
    "called_twice": Entry(_small(Twice), _vector),
    "branching": Entry(_small(Branching), lambda batch: {"x": torch.rand(batch, 8)}),
    "in_place": Entry(_small(InPlace), _vector),
    "two_inputs": Entry(_small(TwoInputs), lambda b: {"x": torch.randn(b, 8), "context": {"c": torch.randn(b, 6)}}),  # type: ignore[dict-item]
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
    "vgg11_bn": _torchvision("vgg11_bn"),
    "mobilenet_v2": _torchvision("mobilenet_v2"),
    "densenet121": _torchvision("densenet121"),
    "vit_b_16": _torchvision("vit_b_16", 64, image_size=64),
    "bert": _text("BertConfig", "BertForSequenceClassification"),
    "roberta": _text("RobertaConfig", "RobertaForSequenceClassification"),
    "distilbert": Entry(
        _hf("DistilBertConfig", "DistilBertForSequenceClassification", dim=32, n_layers=2, n_heads=4, hidden_dim=48,
            vocab_size=64, max_position_embeddings=32),
        ids, "transformers",
    ),
    "albert": replace(_text("AlbertConfig", "AlbertForSequenceClassification", embedding_size=16), seed=1),
    "gpt2": _decoder("GPT2Config", "GPT2LMHeadModel", False, n_embd=32, n_layer=2, n_head=4, vocab_size=64,
                     n_positions=32, bos_token_id=0, eos_token_id=0),
    "llama": _decoder("LlamaConfig", "LlamaForCausalLM", True, **{**_TEXT, "num_key_value_heads": 2}),
    "qwen3": _decoder("Qwen3Config", "Qwen3ForCausalLM", True, **{**_TEXT, "num_key_value_heads": 2, "head_dim": 8}),
    "hf_vit": Entry(
        _hf("ViTConfig", "ViTForImageClassification", hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=48, image_size=32, patch_size=8),
        pixels(32), "transformers",
    ),
    "hf_resnet": Entry(
        _hf("ResNetConfig", "ResNetForImageClassification", embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2],
            layer_type="basic", std=0.1),
        pixels(32), "transformers",
    ),
}  # fmt: skip


def make(name: str, batch: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Inputs, Any]:
    """A model of the zoo, inputs for it, and its target. The same for the same arguments."""
    entry = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entry.seed)
        model = entry.build().to(dtype)
        inputs = _cast(entry.inputs(batch), dtype)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model, inputs, entry.target() if callable(entry.target) else entry.target


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, dict):
        return {k: _cast(v, dtype) for k, v in inputs.items()}
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def rows(inputs: Any, row: int) -> Any:
    """One row of a batch."""
    return {k: rows(v, row) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[row : row + 1]
