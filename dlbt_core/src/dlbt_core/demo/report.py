"""The report of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dlbt_core.demo.digits import check_images, digits_section
from dlbt_core.demo.steps import Steps
from dlbt_core.demo.text import SENTENCES, check_text, text_section
from dlbt_core.errors import InputError
from dlbt_core.show.page import Section, write_report

__all__ = ["write_demo"]

_INTRO = (
    "dlbt records what a PyTorch model did and hands its score back through the recorded steps to the input, one rule "
    "per step, with every unit accounted for. This report does that for real input. It was computed where it was "
    "written, without a network."
)


def write_demo(
    path: str | Path = "report.html",
    *,
    text: bool = True,
    images: bool = True,
    sentences: Sequence[str] = SENTENCES,
    epochs: int = 12,
    console: Console | None = None,
) -> Path:
    """Explain example models on real input and write one self-contained page.

    Parameters
    ----------
    path : str or Path
        The page.
    text, images : bool
        Which parts to do.
    sentences : sequence of str
        What the text part classifies.
    epochs : int
        How long the image part trains its network.
    console : rich.console.Console, optional
        Where progress is shown; standard error unless given.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DlbtError
        If something that a part needs is not installed; it says what to install.
    """
    if not (text or images):
        raise InputError("nothing to do: text and images are both left out.\n  fix  leave out one of them at most.")
    if text:
        check_text()
    if images:
        check_images()
    steps = Steps(console)
    sections: list[Section] = []
    if text:
        sections.append(text_section(steps, sentences))
    if images:
        sections.append(digits_section(steps, epochs))
    with steps.step("write the report"):
        return write_report(sections, path, title="dlbt: what made the score", intro=[_INTRO])
