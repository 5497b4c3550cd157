"""Models at the sizes people use, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """A model, its inputs, and how its input gradient is taken without dlbt."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    language_model: bool = False

    def score(self, out: Any) -> Tensor:
        """The largest class, or the most likely next token."""
        logits = out if isinstance(out, Tensor) else out.logits
        return (logits[:, -1] if self.language_model else logits).amax(-1).sum()


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        model: nn.Module = getattr(models, name)(weights=None)
        return model

    return build


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig())


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1376,
        vocab_size=32000, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _image() -> dict[str, Tensor]:
    return {"x": torch.randn(1, 3, 224, 224)}


def _tokens(vocabulary: int, length: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_ids": torch.randint(0, vocabulary, (1, length))}


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("resnet18 224px", _torchvision("resnet18"), _image),
        Shape("resnet50 224px", _torchvision("resnet50"), _image),
        Shape("vgg11 224px", _torchvision("vgg11"), _image),
        Shape("bert-base 128 tokens", _bert, _tokens(30522, 128)),
        Shape("llama 8x512 128 tokens", _llama, _tokens(32000, 128), True),
    )
}
