"""The commands. What a command needs is imported when it runs, so that ``dlbt --help`` waits for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dlbt_core.cli import output
from dlbt_core.cli.comparing import compare
from dlbt_core.cli.doctor import doctor
from dlbt_core.cli.new_plugin import new_plugin
from dlbt_core.cli.options import AsJson
from dlbt_core.cli.planning import coverage, diff, plan

__all__ = ["app"]


class _Commands(TyperGroup):
    """Shows the errors that dlbt raises on purpose, and files that fail, without a traceback; the exit code is then 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        from dlbt_core.errors import DlbtError

        try:
            return super().invoke(ctx)
        except DlbtError as error:
            typer.echo("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), err=True)
            raise typer.Exit(2) from error
        except BrokenPipeError as error:  # as in `dlbt rules | head`; 141 is what the shell makes of it elsewhere
            output.close_stdout()
            raise typer.Exit(141) from error
        except OSError as error:
            typer.echo(f"error: {output.told(error)}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dlbt_core import __version__

        typer.echo(f"dlbt {__version__}")
        raise typer.Exit


@app.callback()
def _dlbt(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Relevance propagation for PyTorch: what made a model's output what it is, with every unit accounted for."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The page to write.", dir_okay=False)] = Path("report.html"),
    text: Annotated[bool, typer.Option(help="Sentences: all-MiniLM-L6-v2 as a topic classifier.")] = True,
    images: Annotated[bool, typer.Option(help="Images: a small CNN, trained in seconds on digits.")] = True,
    as_json: AsJson = False,
) -> None:
    """Explain example models on real input; write one self-contained page."""
    from dlbt_core.cli import tables
    from dlbt_core.demo import write_demo

    page = write_demo(out, text=text, images=images).resolve()
    if as_json:
        tables.print_json({"page": str(page)})
    else:
        typer.echo(f"{page}: open it in a browser, it needs no network.")


@app.command()
def text(
    model: Annotated[str, typer.Argument(help="A folder that save_pretrained has written, or a name on the hub.")],
    sentence: Annotated[str, typer.Argument(help="The text.")],
    pair: Annotated[str | None, typer.Option(help="A second text: that to answer from, or to compare with.")] = None,
    task: Annotated[str, typer.Option(help="What the model is for: classification, causal-lm, ...")] = "auto",
    target: Annotated[
        str | None, typer.Option(help="A label, a token, an answer; the most likely unless given.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="A label or token to set against it.")] = None,
    continuation: Annotated[str | None, typer.Option(help="For language models: the text that follows.")] = None,
    at: Annotated[str | None, typer.Option(help="Which token: a word of the text, or a position.")] = None,
    composite: Annotated[str, typer.Option(help="Which rule where: a name (see dlbt composites), a TOML file.")] = "auto",
    words: Annotated[bool, typer.Option("--words", help="Print words with their numbers in place of tokens.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a page (.html) or a picture (.png, .svg).", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a model of transformers on a text: what in it made the model say what it says."""
    from dlbt_core.cli import tables
    from dlbt_core.cli import text as command

    with output.prints_aside():
        result = command.explain(
            model, sentence, task=task, composite=composite, pair=pair, target=target, against=against,
            continuation=continuation, at=at,
        )  # fmt: skip
    if out is not None:
        result.save(out)
    if as_json:
        tables.print_json(command.text_json(result))
    elif out is not None:
        typer.echo(str(out))
    else:
        command.print_text(result, words)


@app.command()
def plugins(
    as_json: AsJson = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the errors of those that failed.")] = False,
) -> None:
    """List the plugins that were found; the exit code is 1 if one failed."""
    from dlbt_core.cli import tables

    found = tables.loaded_plugins()
    if as_json:
        tables.print_json(tables.plugins_json(found, traceback))
    else:
        tables.print_plugins(found, traceback)
    if found.failures:
        raise typer.Exit(1)


@app.command()
def rules(
    op: Annotated[str, typer.Option(help="Only ops that fit this glob, e.g. 'aten.conv*'.")] = "*",
    variant: Annotated[str, typer.Option(help="Only variants that fit this glob.")] = "*",
    plugin: Annotated[str, typer.Option(help="Only plugins that fit this glob.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List the rules: which op, which variant, from which plugin, with which parameters."""
    from dlbt_core.cli import tables

    rows = tables.rules_like(op, variant, plugin)
    if as_json:
        tables.print_json(rows)
    else:
        tables.print_rules(rows)


@app.command()
def composites(
    name: Annotated[str | None, typer.Argument(help="Show what is in this one: a name, or a TOML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the composites, or show one."""
    from dlbt_core.cli import tables

    if as_json:
        tables.print_json(tables.composite_rows() if name is None else tables.composite_json(name))
    elif name is None:
        tables.print_composites(tables.composite_rows())
    else:
        tables.print_composite(name)


for command in (plan, coverage, diff, compare, doctor, new_plugin):
    app.command()(command)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A saved explanation.", exists=True, dir_okay=False)],
    out: Annotated[Path | None, typer.Option(help="Write a page instead of printing.", dir_okay=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show a saved explanation: its inputs, its ledger and its plan in short."""
    from dlbt_core.cli import tables
    from dlbt_core.storage import load

    explanation = load(file)
    if out is not None:
        explanation.to_html(out, title=file.stem)
    if as_json:
        tables.print_json(tables.explanation_json(explanation))
    elif out is not None:
        typer.echo(str(out))
    else:
        tables.print_explanation(explanation)
