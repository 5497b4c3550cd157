"""Model and tokenizer from a folder or from the hub of Hugging Face, for the command line."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dlbt_core.errors import DlbtError, InputError
from dlbt_rules_nlp.texts_tasks import task_of

__all__ = ["load_text_model"]

_CLASSES = {
    "classification": "AutoModelForSequenceClassification", "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering", "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM", "seq2seq-lm": "AutoModelForSeq2SeqLM", "similarity": "AutoModel",
}  # fmt: skip


def load_text_model(name: str, task: str = "auto") -> tuple[Any, Any]:
    """A model in eval mode, in float32 on the CPU, and its tokenizer.

    Parameters
    ----------
    name : str
        A folder that ``save_pretrained`` has written, or a name on the hub. Code from the hub is never run.
    task : str
        What the model is to be loaded for; what it was saved for unless given.

    Raises
    ------
    DlbtError
        If transformers is missing, the folder is none of a model, the hub has no such model or cannot be reached, or the
        saved weights are not for that task.
    """
    if find_spec("transformers") is None:
        raise DlbtError("a text model needs transformers, which cannot be imported.\n  fix  pip install transformers")
    kind = None if task == "auto" else _CLASSES[task_of(None, task)]
    _check_folder(name)
    transformers: Any = importlib.import_module("transformers")
    config = _loaded(transformers.AutoConfig.from_pretrained, name)
    tokenizer = _loaded(transformers.AutoTokenizer.from_pretrained, name)
    known = (getattr(config, "architectures", None) or [""])[0]
    make = getattr(transformers, kind or known, None) or transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        model, report = _loaded(make.from_pretrained, name, dtype=torch.float32, output_loading_info=True)
    missing = sorted(report.get("missing_keys", ()))
    if missing and kind != "AutoModel":
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise InputError(
            f"the weights of {name!r} are not those of a {type(model).__name__}: {shown} would be random.\n"
            f"  fix  the task it was trained for ({known or 'not said'}), or another model."
        )
    return model.eval(), tokenizer


def _check_folder(name: str) -> None:
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise DlbtError(
            f"the folder {name!r} is not that of a model: it has no config.json.\n"
            "  fix  a folder that model.save_pretrained(...) and tokenizer.save_pretrained(...) have written."
        )
    if path.is_file():
        raise DlbtError(f"{name!r} is a file.\n  fix  the folder that model.save_pretrained(...) has written.")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise DlbtError(
            f"there is no folder {name!r}.\n  fix  the folder of a model, or a name on the hub: owner/name."
        )


def _loaded(load: Any, name: str, **options: Any) -> Any:
    path = Path(name).expanduser()
    try:
        return load(str(path) if path.is_dir() else name, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = next(iter(str(error).strip().splitlines()), "")
        if path.is_dir():
            raise DlbtError(
                f"the model in {name!r} cannot be loaded: {type(error).__name__}: {first}\n"
                "  fix  a folder that model.save_pretrained(...) and tokenizer.save_pretrained(...) have written."
            ) from error
        raise DlbtError(
            f"{name!r} cannot be loaded from the hub: {type(error).__name__}: {first}\n"
            "  fix  check its name and the network; or give a local folder that save_pretrained(...) has written."
        ) from error
