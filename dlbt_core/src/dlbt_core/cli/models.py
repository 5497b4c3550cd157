"""MODEL on the command line: a function of the user's, a name of torchvision, or a folder of transformers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlbt_core.cli.inputs import given_inputs
from dlbt_core.errors import DlbtError, InputError

__all__ = ["FORMS", "LoadedModel", "load_model"]

FORMS = """\
  package.module:name   a function that returns the model, or (model, inputs), or (model, args, kwargs); or the model
  path/to/file.py:name  the same in a file
  torchvision:resnet18  a model of torchvision with random weights
  path/to/folder        a folder that save_pretrained of transformers has written"""


@dataclass(frozen=True)
class LoadedModel:
    """A model with a call of it.

    Attributes
    ----------
    model
        In eval mode.
    args, kwargs
        What it is called with.
    explain_inputs
        What is explained, where the model's kind says it.
    target
        What is explained of its output, where the largest class is no answer.
    shown
        How to show its inputs, as options of an `Exhibit`: tokens, names of the classes.
    """

    model: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    explain_inputs: tuple[str, ...] | None = None
    target: Any = None
    shown: Mapping[str, Any] = field(default_factory=dict)


def load_model(spec: str, inputs: Sequence[str] = (), *, text: str | None = None, seed: int = 0) -> LoadedModel:
    """The model that `spec` names, in eval mode, and inputs for it.

    Parameters
    ----------
    spec : str
        One of `FORMS`.
    inputs : sequence of str
        Random inputs in place of its own, as `dlbt_core.cli.inputs.given_inputs` reads them.
    text : str, optional
        What a model of text is given.
    seed : int
        Of random inputs and weights.

    Raises
    ------
    DlbtError
        If there is no such model, it cannot be loaded, or it is not known what to call it with.
    """
    place, separator, name = spec.rpartition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if separator and place == "torchvision":
            loaded = _of_torchvision(name)
        elif separator and name and not (len(place) == 1 and name[0] in "\\/"):  # C:\folder
            loaded = _of_user(place, name, seed)
        elif Path(spec).expanduser().is_dir():
            loaded = _of_folder(spec, text)
        else:
            raise InputError(f"{spec!r} names no model, and there is no such folder.\n  fix  give one of:\n{FORMS}")
        if inputs:
            torch.manual_seed(seed)  # whatever the model's weights have drawn
            args, kwargs = given_inputs(inputs)
            loaded = replace(loaded, args=args, kwargs=kwargs, shown={})
    if not loaded.args and not loaded.kwargs:
        raise InputError(
            f"{spec!r} gives a model and no inputs.\n  fix  --input 1x3x224x224, --input input_ids=1x12:int64; or return "
            "(model, inputs)."
        )
    if isinstance(loaded.model, nn.Module):
        loaded.model.eval()
    return loaded


# -- the user's own ----------------------------------------------------------------------------------------------------


def _of_user(place: str, name: str, seed: int) -> LoadedModel:
    module = _module_in_file(place) if place.endswith(".py") else _module_called(place)
    torch.manual_seed(seed)  # a module draws at its first import alone
    made: Any = module
    for part in name.split("."):
        if not hasattr(made, part):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(f"{place} has no {name!r}.\n  fix  one of: {', '.join(public) or 'it has no functions'}.")
        made = getattr(made, part)
    if not isinstance(made, (nn.Module, torch.export.ExportedProgram)):
        if not callable(made):
            raise InputError(
                f"{place}:{name} is of type {type(made).__name__}.\n  fix  a function that returns a model."
            )
        made = _run(f"{place}:{name}", made)
    return _taken(f"{place}:{name}", made)


def _module_in_file(place: str) -> Any:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"there is no file {place!r}.\n  fix  path/to/file.py:name")
    known = sys.modules.get(f"dlbt_model_{path.stem}")
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(f"dlbt_model_{path.stem}", path)
    assert spec is not None
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look their module up there
    sys.path.insert(0, str(path.parent))
    try:
        _run(place, lambda: loader.exec_module(module), verb="importing")
    except DlbtError:
        del sys.modules[spec.name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _module_called(place: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = _run(place, lambda: importlib.util.find_spec(place), verb="importing")
        if found is None:
            raise InputError(f"there is no module {place!r}.\n  fix  give one of:\n{FORMS}")
        return _run(place, lambda: importlib.import_module(place), verb="importing")
    finally:
        sys.path.remove(here)


def _run(what: str, function: Callable[[], Any], verb: str = "calling") -> Any:
    """Run the user's code; what it raises is told with the place where it did."""
    try:
        return function()
    except DlbtError:
        raise
    except Exception as error:
        last = error.__traceback__.tb_next if error.__traceback__ is not None else None  # behind this very line
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        where = "" if last is None else f"\n  where  {last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
        remedies = {
            "calling": "a function that takes no arguments and returns a model",
            "loading": "a folder that model.save_pretrained(...) has written",
        }
        remedy = remedies.get(verb, "mend what failed there")
        raise InputError(f"{verb} {what} failed: {type(error).__name__}: {error}{where}\n  fix    {remedy}.") from error


def _taken(what: str, made: Any) -> LoadedModel:
    """What a function returned, taken apart."""
    parts = made if isinstance(made, tuple) else (made,)
    model, *rest = parts if parts else (None,)
    is_model = isinstance(model, torch.export.ExportedProgram) or (callable(model) and not isinstance(model, type))
    if not is_model or len(rest) > 2 or (len(rest) == 2 and not isinstance(rest[1], Mapping)):
        shown = (
            f"({', '.join(type(part).__name__ for part in parts)})" if isinstance(made, tuple) else type(made).__name__
        )
        raise InputError(
            f"{what} gives {shown}.\n  fix  return the model, (model, inputs) or (model, args, kwargs): inputs are a tensor, a "
            "tuple or a dict, args a tuple and kwargs a dict."
        )
    if not rest:
        return LoadedModel(model)
    if isinstance(rest[0], Mapping) and len(rest) == 1:
        return LoadedModel(model, (), dict(rest[0]))
    args = tuple(rest[0]) if isinstance(rest[0], (tuple, list)) else (rest[0],)
    return LoadedModel(model, args, dict(rest[1]) if len(rest) == 2 else {})


# -- torchvision -------------------------------------------------------------------------------------------------------


def _of_torchvision(name: str) -> LoadedModel:
    if importlib.util.find_spec("torchvision") is None:
        raise DlbtError("torchvision cannot be imported.\n  fix  pip install torchvision")
    models: Any = importlib.import_module("torchvision.models")
    try:
        build = models.get_model_builder(name)
    except ValueError as error:
        import difflib

        near = difflib.get_close_matches(name, models.list_models(), 3)
        hint = f" Close: {', '.join(map(repr, near))}." if near else ""
        remedy = "\n  fix  torchvision.models.list_models() lists them."
        raise InputError(f"torchvision has no model {name!r}.{hint}{remedy}") from error
    kind = build.__module__.split(".")[2]
    options: dict[str, Any] = {"weights_backbone": None} if kind in ("segmentation", "detection") else {}
    options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = _run(f"torchvision:{name}", lambda: build(weights=None, **options), verb="building")
    return LoadedModel(model, _image_for(kind, name))


def _image_for(kind: str, name: str) -> tuple[Any, ...]:
    """A random picture or clip such as the model takes."""
    if kind == "detection":
        return ([torch.rand(3, 224, 224)],)
    if kind == "video":
        return (torch.rand(1, 3, 16, *((224, 224) if name.startswith(("mvit", "swin")) else (112, 112))),)
    if kind == "optical_flow":
        return torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128)
    return (torch.rand(1, 3, 224, 224),)


# -- transformers ------------------------------------------------------------------------------------------------------

_TEXT = "The goalkeeper saved a penalty in London."
_PER_TOKEN = ("causal-lm", "masked-lm", "seq2seq-lm", "token-classification")


def _of_folder(spec: str, text: str | None) -> LoadedModel:
    """A model of transformers from a folder: of text if it came with a tokenizer, else of pictures."""
    folder = Path(spec).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the folder {spec!r} is not that of a model: it has no config.json.\n"
            "  fix  a folder that model.save_pretrained(...) has written; its tokenizer or processor may lie there, too."
        )
    if importlib.util.find_spec("transformers") is None:
        raise DlbtError(
            "a folder's model needs transformers, which cannot be imported.\n  fix  pip install transformers"
        )
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        return _of_text(spec, text or _TEXT)
    transformers: Any = importlib.import_module("transformers")
    config = _run(spec, lambda: transformers.AutoConfig.from_pretrained(str(folder)), verb="loading")
    kind = getattr(transformers, (config.architectures or [""])[0], None) or transformers.AutoModel
    model = _run(spec, lambda: kind.from_pretrained(str(folder), dtype=torch.float32), verb="loading")
    if getattr(model, "main_input_name", "") != "pixel_values" or not isinstance(
        getattr(config, "image_size", None), int
    ):
        return LoadedModel(model)
    shape = (1, getattr(config, "num_channels", 3), config.image_size, config.image_size)
    return LoadedModel(model, (), {"pixel_values": torch.rand(shape)}, ("pixel_values",))


def _of_text(spec: str, text: str) -> LoadedModel:
    if importlib.util.find_spec("dlbt_rules_nlp") is None:
        raise DlbtError(
            "a text model needs dlbt-rules-nlp, which cannot be imported.\n  fix  pip install dlbt-rules-nlp"
        )
    model, tokenizer = importlib.import_module("dlbt_rules_nlp.texts_load").load_text_model(spec)
    takes: Any = importlib.import_module("dlbt_rules_nlp.texts_input").takes
    task = importlib.import_module("dlbt_rules_nlp.texts_tasks").task_of(model, "auto")
    encoded: Mapping[str, Tensor] = tokenizer(text, return_tensors="pt")
    kwargs = {name: tensor for name, tensor in encoded.items() if takes(model, name)}
    explained: tuple[str, ...] = ("input_ids",)
    if task == "seq2seq-lm":
        kwargs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]])
        explained = ("input_ids", "decoder_input_ids")
    from dlbt_core import target

    aim = target.token(-1) if task in _PER_TOKEN else target.logits() if task == "similarity" else None
    tokens = {name: [tokenizer.convert_ids_to_tokens(row) for row in kwargs[name].tolist()] for name in explained}
    return LoadedModel(model, (), kwargs, explained, aim, {"tokens": tokens})
