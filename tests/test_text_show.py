"""What is shown of an explained text: figures, pages, notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.show.matrix import Matrix, matrix_figure, matrix_view
from dlbt_core.show.sheet import families
from dlbt_rules_nlp import TextExplanation, explain_text
from text_models import bert, byte_pairs, llama, t5, unigrams, word_pieces

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def of_bert() -> TextExplanation:
    texts = ["The goalkeeper saved a penalty.", "rain"]
    found: TextExplanation = explain_text(
        bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces(), texts
    )[0]
    return found


@pytest.fixture(scope="module")
def of_t5() -> TextExplanation:
    found: TextExplanation = explain_text(t5(), unigrams(), "the central bank", continuation="heavy rain")
    return found


def texts_in(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tokens", "words", "layers", "heads", "token_map"])
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files(of_bert: TextExplanation, tmp_path: Path, kind: str, ending: str) -> None:
    path = of_bert.save(tmp_path / "made" / f"{kind}.{ending}", kind)
    first = path.read_bytes()
    assert len(first) > 1500
    assert of_bert.save(path, kind).read_bytes() == first


def test_tokens_in_a_figure(of_bert: TextExplanation) -> None:
    made = of_bert.figure()
    shown = texts_in(made)
    for token in of_bert.tokens:
        assert token.text in shown
    assert f"{of_bert.title}, score" in " ".join(" ".join(shown).split())
    boxes = made.findobj(matplotlib.patches.FancyBboxPatch)
    assert len(boxes) == len(of_bert.tokens)
    assert sum(patch.get_linestyle() not in ("-", "solid") for patch in boxes) == 2  # the special ones


def test_words_without_special_tokens_say_what_is_left_out(of_bert: TextExplanation) -> None:
    shown = " ".join(" ".join(texts_in(of_bert.figure("words", special="hide"))).split())
    assert "goalkeeper" in shown
    assert "[CLS]" not in shown
    total = sum(token.relevance for token in of_bert.tokens if token.special)
    assert f"Not shown: 2 special tokens, together {'+' if total > 0 else '−'}" in shown


def test_long_texts_go_into_lines() -> None:
    result = explain_text(llama(), byte_pairs(), "the central bank raised interest rates to slow inflation " * 3)
    short, long = (explain_text(llama(), byte_pairs(), "rain").figure(), result.figure())
    assert long.get_size_inches()[1] > short.get_size_inches()[1] + 0.8
    width = long.get_size_inches()[0]
    for patch in long.findobj(matplotlib.patches.FancyBboxPatch):
        assert 0 <= patch.get_x() <= patch.get_x() + patch.get_width() <= width


def test_text_and_decoder_share_a_scale(of_t5: TextExplanation, tmp_path: Path) -> None:
    shown = texts_in(of_t5.figure())
    assert {"text", "decoder"} <= set(shown)
    page = of_t5.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(set(re.findall(r'class="foot"><p class="legend"><span>against −([^<]+)<', " ".join(page.split())))) == 1
    assert page.count('class="foot"') == 2


def test_nothing_of_pyplot_is_used(of_bert: TextExplanation) -> None:
    before = dict(matplotlib.rcParams)
    of_bert.figure("layers")
    assert dict(matplotlib.rcParams) == before
    assert families()[0] == "DejaVu Sans"


def test_a_figure_that_there_is_not(of_bert: TextExplanation) -> None:
    with pytest.raises(InputError) as caught:
        of_bert.figure("nope")
    assert str(caught.value) == (
        "no figure 'nope'.\n  fix  kind= one of: 'tokens', 'words', 'layers', 'heads', 'experts', 'token_map'."
    )
    for make in (of_bert.figure, of_bert.exhibit):
        with pytest.raises(InputError) as caught:
            make(special="no")
        assert str(caught.value) == "special is 'show' or 'hide', not 'no'."


def test_without_matplotlib(of_bert: TextExplanation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for kind in ("tokens", "layers"):
        with pytest.raises(DlbtError) as caught:
            of_bert.figure(kind)
        assert str(caught.value) == (
            "figures need matplotlib, which cannot be imported.\n"
            "  fix  pip install matplotlib, or dlbt-core[plots]; to_html() needs neither."
        )
    assert of_bert.save(tmp_path / "page.html").stat().st_size > 5000


# -- tables ------------------------------------------------------------------------------------------------------------


def test_tables() -> None:
    matrix = Matrix(torch.tensor([[1.0, -2.0]]), ["block"], ["a", "b"], "Blocks", "a note")
    seen = matrix_view(matrix)
    assert [(cell.number, cell.light) for _, cells in seen.rows for cell in cells][1] == ("−2.00", matrix_view(
        Matrix(torch.tensor([[-1.0]]), ["x"], ["y"])
    ).rows[0][1][0].light)  # fmt: skip
    assert (seen.scale, seen.picture) == ("2", None)
    long = matrix_view(Matrix(torch.randn(100, 100), ["r"] * 100, ["c"] * 100, "Blocks"))
    assert long.rows == ()
    assert long.picture.size == (100, 100)
    shown = texts_in(matrix_figure(matrix, note="foot"))
    assert {"Blocks", "block", "a", "b", "a note\nfoot"} <= set(shown)
    with pytest.raises(InputError) as caught:
        Matrix(torch.ones(2, 2), ["a"], ["b"])
    assert str(caught.value) == (
        "1 names of rows and 1 of columns for a table of shape (2, 2).\n  fix  give one name per row and per column."
    )


def test_long_names_are_shortened_and_many_are_thinned_out() -> None:
    names = [f"base_model.model.encoder.layers.{i}.attention.self_attention" for i in range(2)]
    shown = texts_in(
        matrix_figure(Matrix(torch.ones(2, 200), names, [f"a very long token indeed, number {i}" for i in range(200)]))
    )
    assert {"…0.attention.self_attention", "…1.attention.self_attention"} <= set(shown)
    assert not any(len(text) > 33 for text in shown if text.startswith(("…", "a very")))
    assert sum(text.startswith("a very") for text in shown) < 150


# -- pages and notebooks -----------------------------------------------------------------------------------------------


def test_a_page(of_bert: TextExplanation, tmp_path: Path) -> None:
    page = of_bert.to_html(tmp_path / "page.html", token_map=True, title="Mine").read_text(encoding="utf-8")
    for part in (
        "<h1>Mine</h1>", "Relevance of the blocks", "Relevance of the attention heads",
        "From tokens to positions of bert.encoder.layer.1", of_bert.title, ">go<", 'class="token special"',
    ):  # fmt: skip
        assert part in page
    assert page.count('class="token') >= len(of_bert.tokens)
    assert "further positions" not in page  # it is the longest of its batch
    assert "http:" not in page
    assert "https:" not in page
    as_words = of_bert.to_html(tmp_path / "words.html", words=True, special="hide", layers=False, heads=False)
    text = as_words.read_text(encoding="utf-8")
    assert ">goalkeeper<" in text
    assert "2 special tokens, together" in text
    assert "Relevance of the blocks" not in text


def test_a_page_of_several_texts(tmp_path: Path) -> None:
    model = bert("ForSequenceClassification")
    results = explain_text(model, word_pieces(), ["The goalkeeper saved a penalty.", "heavy rain"])
    page = results.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 2
    assert "further positions, together 0." in page  # the padding of the shorter one
    shown = results._repr_html_()
    assert shown.count("score") >= 2
    assert repr(results).count("TextExplanation of") == 2


def test_padding_before_the_text_is_not_its_tokens(tmp_path: Path) -> None:
    results = explain_text(llama(), byte_pairs("left"), ["the central bank raised", "rain"])
    page = results[1].to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'title="position 3, token ra' in page
    assert "3 further positions, together 0." in page


def test_in_a_notebook(of_bert: TextExplanation) -> None:
    shown = of_bert._repr_html_()
    assert ">go<" in shown
    assert "<script" not in shown
    assert repr(of_bert).startswith(
        f"<TextExplanation of 'The goalkeeper saved a penalty.', {len(of_bert.tokens)} tokens: class"
    )


def test_the_words_with_the_most(of_bert: TextExplanation) -> None:
    top = of_bert.top(3)
    amounts = [abs(word.relevance) for word in top]
    assert len(top) == 3
    assert amounts == sorted(amounts, reverse=True)
    assert not any(word.special for word in top)
    assert len(of_bert.top(99, words=False, special=True)) == len(of_bert.tokens)


def test_importing_the_package_imports_neither_transformers_nor_matplotlib() -> None:
    code = (
        "import sys, dlbt_core, dlbt_rules_nlp; dlbt_core.default_plugins(); import dlbt_core.target.text;"
        "found = {'transformers', 'matplotlib', 'tokenizers'} & set(sys.modules); assert not found, found;"
        "import dlbt_rules_nlp.front, dlbt_rules_nlp.texts_load, dlbt_core.cli.text;"
        "found = {'transformers', 'matplotlib', 'tokenizers'} & set(sys.modules); assert not found, found;"
        "assert 'explain_text' in dir(dlbt_rules_nlp)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_name_that_there_is_not() -> None:
    import dlbt_rules_nlp

    with pytest.raises(AttributeError, match="module 'dlbt_rules_nlp' has no attribute 'nope'"):
        dlbt_rules_nlp.nope  # noqa: B018
