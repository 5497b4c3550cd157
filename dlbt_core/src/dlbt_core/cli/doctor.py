"""``dlbt doctor``: all that a bug report needs to say of the environment."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["doctor", "report"]

_DISTRIBUTIONS = ("dlbt", "dlbt-core", "dlbt-rules-nlp", "dlbt-rules-vision")
_PACKAGES = (
    "torch", "torchvision", "transformers", "tokenizers", "numpy", "safetensors", "matplotlib", "jinja2", "pluggy", "typer",
    "rich", "tqdm", "importlib-metadata", "tomli-w",
)  # fmt: skip
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="As always: it prints JSON.")] = False,
) -> None:
    """Print versions, platform, plugins and switches as JSON, for a bug report; the exit code is 1 if a plugin failed."""
    from dlbt_core.cli import tables

    found = report()
    tables.print_json(found)
    if not found["healthy"]:
        raise typer.Exit(1)


def report() -> dict[str, Any]:
    """The environment as plain values; the home folder is written ``~``."""
    from dlbt_core.plugins.discovery import installed_version

    plugins, problem = _plugins()
    healthy = problem is None and all(row["status"] != "failed" for row in plugins)
    found: dict[str, Any] = _without_home({
        "dlbt": {name: installed_version(name) for name in _DISTRIBUTIONS},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "platform": {"system": platform.system(), "release": platform.release(), "machine": platform.machine()},
        **_torch(),
        "plugins": plugins,
        "plugin_error": problem,
        "environment": {n: v for n, v in sorted(os.environ.items()) if n.startswith("DLBT_") or n in _THREADS},
        "healthy": healthy,
    })  # fmt: skip
    return found


def _torch() -> dict[str, Any]:
    """Threads and devices."""
    import torch

    devices = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "threads": {"torch": torch.get_num_threads(), "between_ops": torch.get_num_interop_threads(), "cores": os.cpu_count()},
        "cuda": {"built_for": torch.version.cuda, "available": torch.cuda.is_available(), "devices": devices},
        "mps": {"available": torch.backends.mps.is_available()},
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }  # fmt: skip


def _plugins() -> tuple[list[dict[str, Any]], str | None]:
    """The plugins with their status; and the error that ends loading, where ``DLBT_STRICT_PLUGINS`` asks for it."""
    from dlbt_core.cli import tables
    from dlbt_core.errors import PluginError

    try:
        return tables.plugins_json(tables.loaded_plugins(), traceback=False), None
    except PluginError as error:
        return [], str(error)


def _without_home(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_home(item) for item in value]
    home = str(Path.home())
    return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value
