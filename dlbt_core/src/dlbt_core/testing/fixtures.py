"""Real distributions in a temporary folder, so that plugins of every kind are tested without installing anything."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dlbt_core.plugins.discovery import GROUP

if TYPE_CHECKING:
    import pytest

__all__ = ["FakeDistribution", "fake_distributions"]


class FakeDistribution(Protocol):
    """Makes a distribution and puts it on ``sys.path``; see `fake_distributions`."""

    def __call__(
        self, name: str, version: str = "0.1.0", entry_points: Mapping[str, str] = ..., files: Mapping[str, str] = ...
    ) -> Path:
        """Make one.

        Parameters
        ----------
        name, version
            As the package's metadata has them.
        entry_points
            Plugin name to its module: ``{"acme": "dlbt_acme.plugin"}``.
        files
            Path inside the distribution to the file's text, whose indentation is taken off.

        Returns
        -------
        Path
            The folder that was put on ``sys.path``.
        """


@contextmanager
def fake_distributions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDistribution]:
    """Give a function that makes distributions; their modules are forgotten at the end.

    Parameters
    ----------
    folder
        Where to write, empty.
    monkeypatch
        Undoes the changes of ``sys.path``.
    """
    packages: set[str] = set()

    def make(
        name: str,
        version: str = "0.1.0",
        entry_points: Mapping[str, str] = {},
        files: Mapping[str, str] = {},
    ) -> Path:
        root = folder / f"site-{name}-{version}"
        metadata = root / f"{name.replace('-', '_')}-{version}.dist-info"
        entries = "".join(f"{entry} = {value}\n" for entry, value in entry_points.items())
        _write(metadata / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        _write(metadata / "entry_points.txt", f"[{GROUP}]\n{entries}")
        for path, text in files.items():
            _write(root / path, textwrap.dedent(text))
        packages.update(Path(path).parts[0].removesuffix(".py") for path in files)
        _forget(packages)
        monkeypatch.syspath_prepend(str(root))
        return root

    try:
        yield make
    finally:
        _forget(packages)
        importlib.invalidate_caches()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _forget(packages: set[str]) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[module]
