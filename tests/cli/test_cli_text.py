"""``dlbt text``: models from folders, their errors, what is printed and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlbt_core.cli.app import app
from dlbt_core.errors import DlbtError
from dlbt_rules_nlp import explain_text
from dlbt_rules_nlp.texts_load import load_text_model
from text_models import bert, byte_pairs, llama, transformers, word_pieces


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *args: CliRunner().invoke(app, ["text", *map(str, args)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, model, tokenizer in (
        ("classifier", bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces()),
        ("encoder", bert("Model"), word_pieces()),
        ("causal", llama(), byte_pairs()),
    ):
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])  # type: ignore[operator]
        tokenizer.save_pretrained(made[name])
    return made


def test_what_is_printed(run: Any, folders: dict[str, Path]) -> None:
    result = run(folders["classifier"], "The goalkeeper saved it.")
    assert result.exit_code == 0, result.output
    expected = explain_text(
        bert("ForSequenceClassification", labels=["no", "yes"]), word_pieces(), "The goalkeeper saved it."
    )
    assert result.stdout.startswith(f"{expected.title}, score ")
    assert "[CLS] The goalkeeper saved it. [SEP]" in result.stdout.replace(" .", ".")
    assert "composite auto -> attnlrp" in result.stdout
    as_words = run(folders["classifier"], "rain", "--words", "--target", "0", "--composite", "epsilon")
    assert as_words.stdout.startswith("class 0 (no), score ")
    assert "composite epsilon; ledger error" in as_words.stdout


def test_json(run: Any, folders: dict[str, Path]) -> None:
    result = run(folders["causal"], "Paris is", "--continuation", " the capital", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    expected = explain_text(llama(), byte_pairs(), "Paris is", continuation=" the capital")
    assert found["score"] == pytest.approx(expected.score, abs=1e-6)
    assert (found["task"], found["explained"]) == ("causal-lm", "continuation “the capital”")
    (row,) = found["inputs"]
    assert [token["relevance"] for token in row["tokens"]] == pytest.approx(expected.relevance.tolist(), abs=1e-6)
    assert [word["text"] for word in row["words"]] == ["Paris", "is", "the", "capital"]
    total = sum(token["relevance"] for token in row["tokens"]) + sum(found["absorbed"].values())
    assert total == pytest.approx(found["score"], abs=1e-5)


def test_files(run: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("page.html", "picture.svg"):
        result = run(folders["encoder"], "rain", "--pair", "the bank", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).stat().st_size > 1000
        assert name in result.stdout.replace("\n", "")


def test_a_word_or_a_position(run: Any, folders: dict[str, Path]) -> None:
    result = run(folders["classifier"], "rain", "--at", "1")
    assert result.exit_code == 2
    assert "at= names a token, but classification has no score per token." in result.stderr


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty", "error: the folder '{}' is not that of a model: it has no config.json.\n"
         "  fix  a folder that model.save_pretrained(...) and tokenizer.save_pretrained(...) have written.\n"),
        ("file", "error: '{}' is a file.\n  fix  the folder that model.save_pretrained(...) has written.\n"),
        ("missing", "error: there is no folder '{}'.\n  fix  the folder of a model, or a name on the hub: owner/name.\n"),
    ],
)  # fmt: skip
def test_what_is_no_model(run: Any, tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    result = run(tmp_path / what, "rain")
    assert (result.exit_code, result.stderr) == (2, message.format(tmp_path / what))


def test_a_folder_that_is_damaged(run: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nope"}')
    result = run(tmp_path, "rain")
    with pytest.raises(DlbtError) as caught:
        load_text_model(str(tmp_path))
    cause = str(caught.value.__cause__).splitlines()[0]  # the words of transformers
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: the model in '{tmp_path}' cannot be loaded: ValueError: {cause}\n"
        "  fix  a folder that model.save_pretrained(...) and tokenizer.save_pretrained(...) have written.\n",
    )


def test_the_hub_cannot_be_reached(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> Any:
        raise OSError("We couldn't connect to the hub.\nMore about it.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    result = run("someone/model", "rain")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: 'someone/model' cannot be loaded from the hub: OSError: We couldn't connect to the hub.\n"
        "  fix  check its name and the network; or give a local folder that save_pretrained(...) has written.\n",
    )


def test_a_head_that_was_not_trained(run: Any, folders: dict[str, Path]) -> None:
    result = run(folders["encoder"], "rain", "--task", "classification")
    assert result.exit_code == 2
    assert (
        f"error: the weights of '{folders['encoder']}' are not those of a BertForSequenceClassification: classifier.bias, "
        "classifier.weight would be random.\n  fix  the task it was trained for (BertModel), or another model.\n"
    ) in result.stderr


def test_a_head_that_was_not_trained_and_a_config_that_does_not_say_for_what(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["encoder"], tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DlbtError) as caught:
        load_text_model(str(folder), "classification")
    assert str(caught.value) == (
        f"the weights of {str(folder)!r} are not those of a BertForSequenceClassification: classifier.bias, "
        "classifier.weight would be random.\n  fix  the task it was trained for (not said), or another model."
    )


def test_a_package_that_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlbt_rules_nlp.texts_load.find_spec", lambda name: None)
    result = run("someone/model", "rain")
    assert (result.exit_code, result.stderr) == (
        2, "error: a text model needs transformers, which cannot be imported.\n  fix  pip install transformers\n",
    )  # fmt: skip
    monkeypatch.setattr("dlbt_core.cli.text.find_spec", lambda name: None)
    result = run("someone/model", "rain")
    assert (result.exit_code, result.stderr) == (
        2, "error: dlbt text needs dlbt-rules-nlp, which cannot be imported.\n  fix  pip install dlbt-rules-nlp\n",
    )  # fmt: skip


def test_loading_leaves_the_random_numbers_alone(folders: dict[str, Path]) -> None:
    import torch

    before = torch.random.get_rng_state()
    model, tokenizer = load_text_model(str(folders["causal"]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    assert tokenizer("rain")["input_ids"] == byte_pairs()("rain")["input_ids"]
