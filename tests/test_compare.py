"""Comparing composites: correlation, books, time, plans; as text, picture and page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr as scipy_spearman
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core import comparing
from dlbt_core.comparing import compare_call
from dlbt_core.correlation import cosine, ranks, spearman
from dlbt_core.errors import DlbtError, InputError
from dlbt_core.scheduler.differences import called, plan_differences
from dlbt_core.show import comparison as shown

pytest.importorskip("matplotlib")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(*modules: nn.Module) -> nn.Module:
    """A model with fixed weights."""
    model = nn.Sequential(*modules).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(number)) / 2)
    return model


def cnn() -> nn.Module:
    return net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def mlp() -> nn.Module:
    return net(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def tokens_net() -> nn.Module:
    return net(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(20, 6), nn.GELU(), nn.Linear(6, 3))


PIXELS = torch.rand(2, 3, 8, 8, generator=seeded(5))
NUMBERS = torch.randn(3, 6, generator=seeded(6))
IDS = torch.randint(0, 20, (2, 5), generator=seeded(7))
WORDS = [list("abcde"), list("fghij")]


# -- correlation -------------------------------------------------------------------------------------------------------


def counted_ranks(values: list[float]) -> list[float]:
    """The definition: how many are smaller, and half of those that are equal."""
    return [sum(o < v for o in values) + (1 + sum(o == v for o in values)) / 2 for v in values]


def pearson(a: list[float], b: list[float]) -> float:
    means = sum(a) / len(a), sum(b) / len(b)
    products = sum((x - means[0]) * (y - means[1]) for x, y in zip(a, b, strict=True))
    return products / math.sqrt(sum((x - means[0]) ** 2 for x in a) * sum((y - means[1]) ** 2 for y in b))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_correlation_is_that_of_its_definition(dtype: torch.dtype) -> None:
    """Spearman's is Pearson's of the ranks, ties sharing the mean of theirs."""
    a, b = (torch.randint(-4, 5, (3, 12), generator=seeded(seed)).to(dtype) for seed in (0, 1))
    b = b + torch.arange(12) / 8
    for row in range(3):
        first, second = a[row].tolist(), b[row].tolist()
        assert ranks(a)[row].tolist() == counted_ranks(first)
        expected = pearson(counted_ranks(first), counted_ranks(second))
        assert float(spearman(a, b)[row]) == pytest.approx(expected, abs=1e-12)
        dot = sum(x * y for x, y in zip(first, second, strict=True))
        norms = math.sqrt(sum(x * x for x in first) * sum(y * y for y in second))
        assert float(cosine(a, b)[row]) == pytest.approx(dot / norms, abs=1e-12)


def test_correlation_at_its_ends() -> None:
    a = torch.tensor([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0], [0.0, 0.0, 0.0], [1e300, 2e300, -1e300]], dtype=torch.float64)
    b = torch.tensor(
        [[2.0, 9.0, 3.0], [-1.0, -5.0, -2.0], [1.0, 2.0, 3.0], [2e-300, 4e-300, -2e-300]], dtype=torch.float64
    )
    assert spearman(a, b).nan_to_num(9.0).tolist() == pytest.approx([1.0, -1.0, 9.0, 1.0])
    assert cosine(a, b).nan_to_num(9.0)[1:].tolist() == pytest.approx([-1.0, 9.0, 1.0])
    assert spearman(torch.tensor([1.0, math.nan, 2.0]), torch.tensor([1.0, 2.0, 3.0])).isnan()


def test_ties_share_the_mean_of_their_ranks_as_in_scipy() -> None:
    a, b = (torch.randint(0, 4, (20, 15), generator=seeded(seed)).double() for seed in (2, 3))
    expected = [float(scipy_spearman(one, other).statistic) for one, other in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(expected, abs=1e-12)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_each_is_what_explain_gives() -> None:
    composites = ["epsilon", "epsilon_plus", "gradient_times_input"]
    found = dlbt.compare(cnn(), PIXELS, composites, target=2, repeats=1)
    assert found.names == tuple(composites)
    assert len(found) == 3
    for name in composites:
        alone = dlbt.explain(cnn(), PIXELS, composite=name, target=2)
        assert torch.equal(found[name].relevance, alone.relevance)
        assert found[name].plan.table() == alone.plan.table()
    for a, b in (("epsilon", "epsilon_plus"), ("epsilon_plus", "gradient_times_input")):
        pair = found.pair(a, b)
        first, second = (found[name].relevance.reshape(2, -1) for name in (a, b))
        for row in range(2):
            expected = pearson(counted_ranks(first[row].tolist()), counted_ranks(second[row].tolist()))
            assert float(pair.spearman[row]) == pytest.approx(expected, abs=1e-12)
        torch.testing.assert_close(pair.cosine, cosine(first, second))
        assert pair.differences == plan_differences(found[a].plan, found[b].plan)
    assert len(found.pairs) == 3


def test_the_model_is_recorded_once() -> None:
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(None)
        return x.relu() * 2.0

    dlbt.compare(model, NUMBERS, ["epsilon", "attnlrp", "gradient_times_input"], repeats=2)
    assert len(calls) == 1


def test_several_inputs_are_compared_together() -> None:
    def model(x: Tensor, y: Tensor) -> Tensor:
        return x.tanh() * y.sigmoid()

    x, y = torch.randn(2, 3, generator=seeded(1)), torch.randn(2, 3, generator=seeded(2))
    by_name = dlbt.compare(model, {"x": x, "y": y}, ["attnlrp", "gradient_times_input"])
    by_place = dlbt.compare(model, (x, y), ["attnlrp", "gradient_times_input"])
    joined = [torch.cat(list(by_name[name].inputs.values()), 1) for name in by_name.names]
    torch.testing.assert_close(by_name.pairs[0].cosine, cosine(*joined))
    assert torch.equal(by_place.pairs[0].cosine, by_name.pairs[0].cosine)
    assert by_name.relevance("attnlrp").shape == (2, 6)
    only = dlbt.compare(model, (x, y), ["attnlrp", "gradient_times_input"], explain_inputs=["x"])
    assert only.relevance("attnlrp").shape == (2, 3)


def test_composites_in_every_form(tmp_path: Path) -> None:
    value = dlbt.composite("epsilon", epsilon=0.5)
    path = tmp_path / "mine.toml"
    path.write_text(dlbt.Composite("mine", value.choices).to_toml())
    found = dlbt.compare(mlp(), NUMBERS, ["attnlrp", value, ("named", path), str(path)])
    assert found.names == ("attnlrp", "epsilon", "named", "mine")
    assert torch.equal(found["named"].relevance, found["epsilon"].relevance)
    explainer = dlbt.Explainer(mlp(), rules=[(dlbt.Select(op="aten.relu"), dlbt.Use("gradient"))])
    kept = dlbt.compare(explainer, NUMBERS, ["epsilon", "attnlrp"], rules=[(dlbt.Select(), dlbt.Use("gradient"))])
    assert kept.pair("epsilon", "attnlrp").differences == []
    direct = compare_call(explainer, (NUMBERS,), {"target": 1}, ["epsilon"])
    assert direct["epsilon"].target == "class 1"
    assert direct.pairs == ()


def test_the_same_plan_is_said_to_be_the_same() -> None:
    zero = dlbt.composite("epsilon", epsilon=0.0)
    found = dlbt.compare(mlp(), NUMBERS, ["epsilon", ("zero", zero), "attnlrp"])
    assert [row["same_plan_as"] for row in found.table()] == [None, None, "zero"]
    note = "attnlrp has the same plan as zero: the same rule with the same parameters at each node."
    assert found.notes == [note]
    assert str(found).endswith(note)
    assert found.plan_table() == [
        {
            "op": "aten.linear.default",
            "nodes": ["linear", "linear_1"],
            "rules": {
                "epsilon": "core:epsilon(epsilon=1e-06)", "zero": "core:epsilon(epsilon=0.0)",
                "attnlrp": "core:epsilon(epsilon=0.0)",
            },
        }
    ]  # fmt: skip


def test_a_rule_in_words() -> None:
    row: dict[str, Any] = {"rule": "core:aten.linear#gamma", "parameters": {"gamma": 0.1, "bias": "kept"}}
    other = {"rule": "core:aten.linear#zplus", "parameters": {"epsilon": 1.0, "bias": "kept"}}
    assert called(row) == "core:gamma(gamma=0.1, bias='kept')"
    assert called(row, [row, other]) == "core:gamma(gamma=0.1)"
    assert called(None, [row]) == "not on the path"
    assert called({"rule": "constant", "parameters": {}}) == "held constant"


def test_time_is_the_median_of_the_repeats() -> None:
    found = dlbt.compare(mlp(), NUMBERS, ["epsilon", "attnlrp"], repeats=4)
    for row in found.table():
        times = sorted(found.times[row["name"]])
        assert len(times) == 4
        assert min(times) > 0
        assert row["seconds"] == pytest.approx((times[1] + times[2]) / 2)
    assert found.threads == torch.get_num_threads()
    assert f"Time: median of 4, {found.threads} thread" in str(found)


def test_notes_on_streams_and_on_what_was_picked() -> None:
    found = dlbt.compare(mlp(), NUMBERS, ["epsilon", "dlb_contrastive"])
    assert found.notes == ["dlb_contrastive: compared is the first of two streams."]

    class Tie(nn.Module):
        """Two logits that are the same sum, one through a norm that some composites fold: the last digits decide."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            spelled = (self.conv(x) - self.norm.running_mean[:, None]) * scale[:, None] + self.norm.bias[:, None]
            return torch.stack([self.norm(self.conv(x)).sum((1, 2)), spelled.sum((1, 2))], 1)

    tie = Tie().eval()
    with torch.no_grad():
        for number, tensor in enumerate([*tie.parameters(), tie.norm.running_mean]):
            tensor.copy_(torch.randn(tensor.shape, generator=seeded(number)))
    x = torch.randn(64, 3, 5, generator=seeded(9))
    found = dlbt.compare(tie, x, ["epsilon", "epsilon_plus"], repeats=1)
    picked = [found[name].picked for name in found.names]
    sample = next(i for i, (a, b) in enumerate(zip(*picked, strict=True)) if a != b)
    assert found.notes[0] == (
        f"sample {sample}: epsilon explains {picked[0][sample]}, epsilon_plus explains {picked[1][sample]}; the model "
        "decides by the last digits, which graph passes change. Name the target."
    )
    assert dlbt.compare(tie, x, ["epsilon", "epsilon_plus"], repeats=1, target=0).notes == []


# -- what cannot be compared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("composites", "options", "message"),
    [
        ([], {}, "composites is empty.\n  fix  composites=['epsilon', 'attnlrp']; 'dlbt composites' lists the names."),
        ("epsilon", {}, "composites is a list, not 'epsilon'.\n  fix  composites=['epsilon', 'attnlrp']."),
        (None, {}, "composites is a list, not None.\n  fix  composites=['epsilon', 'attnlrp']."),
        (["epsilon"], {"targets": [0, 1]}, "compare takes no 'targets'.\n"
         "  fix  one of: explain_inputs, layers, audit, fallback, plugins."),
        (["epsilon"], {"composite": "epsilon"}, "compare takes no 'composite'.\n"
         "  fix  one of: explain_inputs, layers, audit, fallback, plugins."),
        (["epsilon", "epsilon"], {}, "two composites are called 'epsilon'.\n"
         "  fix  give pairs with names of their own: [('a', ...), ('b', ...)]."),
        (["epsilon"], {"repeats": 0}, "repeats is a number of times, 1 or more, not 0."),
        (["epsilon"], {"repeats": 1.5}, "repeats is a number of times, 1 or more, not 1.5."),
        (["epsilon"], {"repeats": True}, "repeats is a number of times, 1 or more, not True."),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(composites: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        dlbt.compare(mlp(), NUMBERS, composites, **options)
    assert str(caught.value) == message


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        dlbt.compare(dlbt.Explainer(mlp()), NUMBERS, ["epsilon"], layers="none")
    assert str(caught.value) == "layers is set where the explainer is made.\n  fix  Explainer(model, layers=...)."
    with pytest.raises(DlbtError) as told:
        dlbt.compare(mlp(), NUMBERS, [3])
    assert str(told.value) == (
        "a composite is a name, a Composite or the path of a TOML file, not 3.\n"
        "  fix  composite='epsilon', composite=Composite(...), or composite='mine.toml'; 'dlbt composites' lists the names."
    )
    found = dlbt.compare(mlp(), NUMBERS, ["epsilon", "attnlrp"], repeats=1)
    for a, b in (("epsilon", "nope"), ("epsilon", "epsilon")):
        with pytest.raises(InputError) as caught:
            found.pair(a, b)
        assert str(caught.value) == f"no two composites {a!r} and {b!r} here. There are: 'epsilon', 'attnlrp'."
    with pytest.raises(InputError) as caught:
        found.figure("y")
    assert str(caught.value) == "no explained input 'y'. There are: 'input'."
    with pytest.raises(InputError) as caught:
        found.save(tmp_path / "x.gif")
    assert str(caught.value) == (
        f"no picture can be written to {str(tmp_path / 'x.gif')!r}: the ending says the format.\n"
        "  fix  end it in one of: .png, .svg, .pdf."
    )


@pytest.mark.parametrize("fails", ["planned", "run"])
def test_a_composite_that_fails_is_named(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are planned before the first is explained."""
    timed: list[Any] = []
    once = comparing._timed
    monkeypatch.setattr(comparing, "_timed", lambda *given: (timed.append(given), once(*given))[1])
    use = {"planned": dlbt.Use("epsilon", epsilon=-1.0), "run": dlbt.Use("alpha_beta", alpha=2.0, beta=0.0)}[fails]
    choices = ((dlbt.Select(op="aten.linear"), use),)
    with pytest.raises(DlbtError) as caught:
        dlbt.compare(mlp(), NUMBERS, ["epsilon", dlbt.Composite("ours", choices)])
    assert caught.value.__notes__[-1] == "  composite   'ours'; without it the others can be compared."
    assert bool(timed) == (fails == "run")


def test_a_dict_gives_names() -> None:
    """Its values are what is compared, even under the name of another composite."""
    other = dlbt.composite("epsilon", epsilon=0.5)
    found = dlbt.compare(mlp(), NUMBERS, {"attnlrp": other, "plain": "epsilon"}, repeats=1)
    assert found.names == ("attnlrp", "plain")
    assert torch.equal(found["attnlrp"].relevance, dlbt.explain(mlp(), NUMBERS, composite=other).relevance)


def test_relevance_without_an_order_is_told() -> None:
    """Means leave the sample out, and a note says which it is."""
    model = net(nn.Linear(6, 3, bias=False))
    numbers = torch.cat([NUMBERS[:1], torch.zeros(1, 6)])
    found = dlbt.compare(model, numbers, ["epsilon", "gradient_times_input"], target=0, repeats=1)
    spearman = found.pairs[0].spearman
    assert torch.isnan(spearman).tolist() == [False, True]
    assert found.to_dict()["pairs"][0]["spearman_mean"] == float(spearman[0])
    for name in found.names:
        assert (
            f"{name}: the relevance of sample 1 is the same throughout, so it has no order: its rank correlation is "
            "undefined, as is the cosine of one that is 0. Means leave both out."
        ) in found.notes
    alone = dlbt.compare(model, numbers, ["epsilon"], target=0, repeats=1)
    assert alone.notes == []


# -- as rows, text, picture and page -----------------------------------------------------------------------------------


def test_plain_values_are_json() -> None:
    """Strictly: what is undefined is null."""
    found = dlbt.compare(lambda x: x.relu() + 0.0 * x, -torch.ones(1, 2), ["epsilon", "gradient_times_input"])
    about = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    (pair,) = about["pairs"]
    assert (pair["spearman"], pair["spearman_mean"], pair["cosine"]) == ([None], None, [None])
    assert "undefined" in str(found)
    row = dlbt.compare(mlp(), NUMBERS, ["epsilon"]).table()[0]
    ledger = dlbt.explain(mlp(), NUMBERS, composite="epsilon").ledger
    assert row["absorbed"] == {name: amount.tolist() for name, amount in ledger.absorbed.items()}
    assert row["score"] == ledger.score.tolist()
    assert row["ledger_error"] == ledger.error


def test_text() -> None:
    found = dlbt.compare(mlp(), NUMBERS, ["epsilon", ("ours", dlbt.composite("epsilon", epsilon=0.5))])
    lines = str(found).splitlines()
    assert lines[0] == "comparison of 2 composites: largest class"
    assert lines[2].startswith("Composites, sums over 3 samples. Time: median of 3, ")
    assert lines[3].split() == "composite score ledger error absorbed time nodes same plan as".split()
    assert lines[5].startswith("  ours: epsilon  ")
    assert "  epsilon, ours  +" in str(found)
    picked = found["epsilon"].picked
    assert f"sample 0, class {picked[0]}" in lines
    assert f"sample 1, class {picked[1]}" in lines
    start = lines.index(f"sample 1, class {picked[1]}")
    assert lines[start + 1].split() == ["entry", "epsilon", "ours"]
    assert [line.split()[0] for line in lines[start + 2 : start + 8]] == [f"[{i}]" for i in range(6)]
    row = found["ours"].relevance[1]
    assert float(lines[start + 3].split()[2].replace("−", "-")) == pytest.approx(float(row[1]), rel=0.1, abs=1e-3)
    assert repr(found) == "<Comparison of epsilon, ours on 3 samples>"
    large = str(dlbt.compare(cnn(), PIXELS, ["epsilon", "epsilon_plus"]))
    assert "the 8 largest of 192 entries" in large
    some = shown.text(dlbt.compare(tokens_net(), IDS, ["epsilon", "attnlrp"]), entries=3, tokens=WORDS)
    assert "the 3 largest of 5 tokens" in some
    assert sum(line.split()[:1] in [[word] for word in WORDS[0]] for line in some.splitlines()) == 3


def test_figures(tmp_path: Path) -> None:
    images = dlbt.compare(cnn(), PIXELS, ["epsilon", "epsilon_plus", "gradient_times_input"])
    figure = images.figure()
    texts = [text.get_text() for text in figure.texts]
    for name in images.names:
        assert name in texts
    assert sum(text.startswith("sum ") for text in texts) == 6
    assert any("Mean rank correlation" in text for text in texts)
    assert sum(text.get_text().startswith("sum ") for text in images.figure(sample=1).texts) == 3
    words = dlbt.compare(tokens_net(), IDS, ["epsilon", "attnlrp"])
    texts = [text.get_text() for text in words.figure(sample=1, tokens=WORDS).texts]
    assert [text for text in texts if text in WORDS[1]] == WORDS[1]
    plain = dlbt.compare(net(nn.Linear(100, 2)), torch.rand(1, 100), ["epsilon"])
    assert sum(text.get_text().startswith("[") for text in plain.figure().texts) == 40
    for name in ("a.png", "b.svg"):
        assert images.save(tmp_path / name).stat().st_size > 1000


def test_page_and_notebook(tmp_path: Path) -> None:
    found = dlbt.compare(cnn(), PIXELS, ["epsilon", "epsilon_plus"], repeats=1)
    text = found.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 2
    sides = text.partition("Side by side")[2].partition("Each explanation")[0]
    assert sides.count("<figure") == 4
    assert "<code>epsilon_plus</code>" in sides
    assert "rank correlation" in text
    assert "Where the plans differ" in text
    words = dlbt.compare(tokens_net(), IDS, ["epsilon", "attnlrp"], repeats=1)
    text = words.to_html(tmp_path / "words.html", tokens=WORDS, title="Which?").read_text(encoding="utf-8")
    assert "<title>Which?</title>" in text
    sides = text.partition("Side by side")[2].partition("Each explanation")[0]
    assert 'class="cells"' in sides
    assert "<bdi>j</bdi>" in sides
    fragment = words._repr_html_()
    assert fragment.count('class="cells"') == 2
    assert "rank correlation" in fragment
    assert "<html" not in fragment


def test_rows_are_in_shares_of_their_largest(tmp_path: Path) -> None:
    found = dlbt.compare(tokens_net(), IDS, ["epsilon", ("ours", dlbt.composite("epsilon", epsilon=1.0))], repeats=1)
    (sample,) = shown._samples(found, ["input"], [0], "sum", 40)
    for row, name in zip(sample.matrix.values, found.names, strict=True):
        own = found[name].relevance[0].double()
        torch.testing.assert_close(row, own / own.abs().max())
    assert tmp_path.is_dir()
