"""Tiny random models of transformers and tokenizers that need no download, for tests of the text front end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zoo import widen

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

DATA = Path(__file__).parent / "data"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def stored(name: str) -> Any:
    """A tokenizer trained once: the trainers of the library draw another vocabulary in every process."""
    return tokenizers.Tokenizer.from_file(str(DATA / f"{name}.json"))


@cache
def word_pieces() -> Any:
    """As BERT's: lower case, word pieces, ``[CLS] a [SEP] b [SEP]``."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=stored("word_pieces"), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@cache
def byte_pairs(side: str = "right", pad: bool = True) -> Any:
    """As GPT-2's: byte-level pairs, a space before a word is part of it."""
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=stored("byte_pairs"), eos_token="<|endoftext|>", padding_side=side,
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
        **({"pad_token": "<|pad|>"} if pad else {}),
    )  # fmt: skip
    found.chat_template = CHAT
    return found


@cache
def unigrams() -> Any:
    """As T5's: pieces with a mark for the space, ``</s>`` at the end."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=stored("unigrams"), unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )


@cache
def marked_pieces() -> Any:
    """As BART's: ``<s>`` and ``</s>`` around byte-level pairs."""
    made = tokenizers.Tokenizer.from_str(byte_pairs().backend_tokenizer.to_str())
    made.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, made.token_to_id(name)) for name in ("<s>", "</s>")],
    )  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>"
    )


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return widen(make()).eval()


def _bert(kind: str, attention: str = "sdpa", **options: Any) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=len(word_pieces()), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, attn_implementation=attention, **options,
    )  # fmt: skip
    return seeded(lambda: getattr(transformers, f"Bert{kind}")(config))


def bert(kind: str, attention: str = "sdpa", labels: Sequence[str] = ()) -> nn.Module:
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    return _bert(kind, attention, **names)


def gpt2(kind: str = "LMHeadModel", attention: str = "sdpa", **options: Any) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=len(byte_pairs()), n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_implementation=attention,
        bos_token_id=0, eos_token_id=0, **options,
    )  # fmt: skip
    return seeded(lambda: getattr(transformers, f"GPT2{kind}")(config))


def llama(attention: str = "sdpa") -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=len(byte_pairs()), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, attn_implementation=attention, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def t5(attention: str = "sdpa") -> nn.Module:
    config = transformers.T5Config(
        vocab_size=len(unigrams()), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, attn_implementation=attention,
    )  # fmt: skip
    return seeded(lambda: transformers.T5ForConditionalGeneration(config))


def bart(attention: str = "sdpa") -> nn.Module:
    tokenizer = marked_pieces()
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.eos_token_id, attn_implementation=attention,
    )  # fmt: skip
    return seeded(lambda: transformers.BartForConditionalGeneration(config))
