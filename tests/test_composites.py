"""Composites: which rule where, in which order of authority; TOML; contexts."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.composites.composite import CompositeSet
from dlbt_core.composites.presets import ATTNLRP, EPSILON, GRADIENT_TIMES_INPUT
from dlbt_core.errors import DlbtError
from dlbt_core.plugins.loader import Plugins
from dlbt_core.plugins.services import graph_pass


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Linear(6, 4)).eval()


X = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))


def rules_of(found: dlbt.Explanation) -> dict[str, str]:
    return {step.node.name: step.call.partition("#")[2] for step in found.plan.steps}


def epsilon(value: float) -> dlbt.Use:
    return dlbt.Use("epsilon", epsilon=value)


def test_first_match_wins_then_the_default() -> None:
    composite = dlbt.Composite(
        "ours",
        (
            (dlbt.Select(op="aten.linear", last=True), epsilon(0.5)),
            (dlbt.Select(op="aten.lin*", first=True), dlbt.Use("gradient")),
            (dlbt.Select(module="2.*", op="aten.linear"), epsilon(0.25)),
            (dlbt.Select(module_type="*.Linear"), epsilon(0.125)),
        ),
    )
    found = rules_of(dlbt.explain(net(), X, composite=composite))
    assert found == {
        "linear": "gradient()",
        "relu": "identity()",
        "linear_1": "epsilon(epsilon=0.25, relative=False, bias='denominator')",
        "gelu": "identity()",
        "linear_2": "epsilon(epsilon=0.5, relative=False, bias='denominator')",
    }


def test_order_of_authority() -> None:
    """The call's rules, the explainer's, the context's, the composite's, the op's default."""
    linear = dlbt.Select(op="aten.linear")
    explainer = dlbt.Explainer(net(), dlbt.Composite("c", ((linear, epsilon(0.1)),)))

    def used(**call: object) -> float:
        return float(explainer(X, **call).plan.steps[0].parameters["epsilon"])

    assert used() == 0.1
    with dlbt.use_rules((linear, epsilon(0.2))):
        assert used() == 0.2
        with dlbt.use_rules((dlbt.Select(op="aten.relu"), dlbt.Use("gradient"))):
            assert used() == 0.2
        with dlbt.use_rules((linear, epsilon(0.3))):
            assert used() == 0.3
        with dlbt.use_rules(inherit=False):
            assert used() == 0.1
        explainer.rules = ((linear, epsilon(0.4)),)
        assert used() == 0.4
        assert used(rules=[(linear, epsilon(0.5))]) == 0.5
    reason = explainer(X, rules=[(linear, epsilon(0.5))]).plan.steps[0].reason
    assert reason == "this call's rules: Select(op='aten.linear')"


def test_a_context_is_of_its_thread() -> None:
    model, seen = net(), []

    def other() -> None:
        seen.append(dlbt.explain(model, X, composite="attnlrp").plan.steps[0].parameters["epsilon"])

    with dlbt.use_rules((dlbt.Select(op="aten.linear"), epsilon(0.2))):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [0.0]


def used_epsilon(explainer: dlbt.Explainer) -> float:
    return float(explainer.plan(X).steps[0].parameters["epsilon"])


def in_context(value: float, **options: Any) -> Any:
    return dlbt.use_rules((dlbt.Select(op="aten.linear"), epsilon(value)), **options)


def test_a_context_is_of_its_async_task() -> None:
    """Tasks take turns inside their blocks; each sees its own choices, and those of who started it."""
    explainer = dlbt.Explainer(net(), "attnlrp")

    async def one(value: float | None, steps: int) -> list[float]:
        seen = []
        for _ in range(steps):
            if value is None:
                seen.append(used_epsilon(explainer))
                await asyncio.sleep(0)
                continue
            with in_context(value):
                await asyncio.sleep(0)
                seen.append(used_epsilon(explainer))
                await asyncio.sleep(0)
        return seen

    async def all_of_them() -> list[list[float]]:
        with in_context(0.5):
            return await asyncio.gather(one(0.1, 3), one(0.2, 3), one(None, 3))

    assert asyncio.run(all_of_them()) == [[0.1] * 3, [0.2] * 3, [0.5] * 3]
    assert used_epsilon(explainer) == 0.0


def test_a_context_goes_along_where_python_takes_it() -> None:
    """Into ``asyncio.to_thread``, which copies the context; not into a plain thread; a decorator is a block, too."""
    explainer = dlbt.Explainer(net(), "attnlrp")

    async def elsewhere() -> float:
        with in_context(0.5):
            return await asyncio.to_thread(used_epsilon, explainer)

    assert asyncio.run(elsewhere()) == 0.5

    @in_context(0.25)
    def decorated() -> float:
        return used_epsilon(explainer)

    assert [decorated(), used_epsilon(explainer), decorated()] == [0.25, 0.0, 0.25]


def test_threads_do_not_see_each_other() -> None:
    explainer, seen = dlbt.Explainer(net(), "attnlrp"), {}
    inside = threading.Barrier(3)

    def other(value: float) -> None:
        with in_context(value):
            inside.wait(timeout=30)
            seen[value] = used_epsilon(explainer)
            inside.wait(timeout=30)

    threads = [threading.Thread(target=other, args=(value,)) for value in (0.1, 0.2)]
    for thread in threads:
        thread.start()
    inside.wait(timeout=30)
    assert used_epsilon(explainer) == 0.0
    inside.wait(timeout=30)
    for thread in threads:
        thread.join()
    assert seen == {0.1: 0.1, 0.2: 0.2}


def test_a_block_that_a_generator_leaves_open() -> None:
    """It holds for the caller until the generator goes on, and cannot end in another thread."""

    def values() -> Any:
        with in_context(0.5):
            yield
            yield

    def go_on(running: Any) -> None:
        next(running)
        before = used_epsilon(explainer)
        ended: list[str] = []

        def elsewhere() -> None:
            try:
                running.close()
            except DlbtError as error:
                ended.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert before == 0.5
        assert ended == [
            "a block of use_rules ended in another thread or async task than it began in, where its choices still hold.\n"
            "  fix  end it where it began: in a generator no yield inside the block."
        ]

    explainer = dlbt.Explainer(net(), "attnlrp")
    contextvars.copy_context().run(go_on, values())  # which keeps what is left open from the tests behind
    assert used_epsilon(explainer) == 0.0
    for _ in values():
        assert used_epsilon(explainer) == 0.5
    assert used_epsilon(explainer) == 0.0


def test_a_context_ends_with_its_block_whatever_happens() -> None:
    explainer = dlbt.Explainer(net(), "attnlrp")
    with in_context(0.5):
        with pytest.raises(ZeroDivisionError), in_context(0.1):
            1 / (used_epsilon(explainer) - 0.1)  # which is 0 in this block alone
        assert used_epsilon(explainer) == 0.5
        with in_context(0.2, inherit=False), dlbt.use_rules(inherit=False):
            assert used_epsilon(explainer) == 0.0
    assert used_epsilon(explainer) == 0.0


@pytest.mark.parametrize("choice", [3, dlbt.Select(), (dlbt.Select(),), (dlbt.Use("flat"), dlbt.Select())])
def test_what_is_no_choice(choice: Any) -> None:
    message = f"a choice is a pair (Select(...), Use(...)), not {choice!r}."
    with pytest.raises(DlbtError) as caught, dlbt.use_rules(choice):
        pass
    assert str(caught.value) == message
    with pytest.raises(DlbtError) as caught:
        dlbt.explain(net(), X, rules=[choice])
    assert str(caught.value) == message
    with pytest.raises(DlbtError) as caught:
        dlbt.explain(net(), X, rules=3)  # type: ignore[arg-type]
    assert str(caught.value) == "rules are a list of pairs (Select(...), Use(...)), not 3."


def test_but_and_equality() -> None:
    choice = (dlbt.Select(op="aten.linear"), epsilon(0.5))
    more = EPSILON.but(choice)
    assert more.choices == (choice, *EPSILON.choices)
    assert more != EPSILON
    assert more == EPSILON.but(choice)
    assert hash(more) == hash(EPSILON.but(choice))
    assert "Select(op='aten.linear') -> Use('epsilon', epsilon=0.5)" in str(more)


@pytest.mark.parametrize("composite", [EPSILON, GRADIENT_TIMES_INPUT, ATTNLRP, dlbt.Composite(
    "all of it",
    (
        (dlbt.Select(op=("aten.conv*", "aten.linear"), module="a.*", module_type="*.L", first=True), epsilon(1e-3)),
        (dlbt.Select(fact="statistic", has="epsilon", last=True), dlbt.Use("constant")),
    ),
    prefer=("acme",),
    passes=("fold_batch_norm",),
)], ids=lambda c: c.name)  # fmt: skip
def test_toml_round_trip(composite: dlbt.Composite, tmp_path: Path) -> None:
    assert dlbt.Composite.from_toml(composite.to_toml()) == composite
    path = tmp_path / "composite.toml"
    path.write_text(composite.to_toml())
    assert dlbt.Composite.from_toml(path) == composite


@pytest.mark.parametrize("name", [n for n in dlbt.default_plugins().composites if n != "auto"])
def test_a_bundled_composite_from_its_toml_has_the_same_plan(name: str) -> None:
    """On a CNN with batch norm, and on a transformer."""
    composite = dlbt.composite(name)
    again = dlbt.Composite.from_toml(composite.to_toml())
    assert again == composite
    cnn = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    ).eval()
    for model, inputs in ((cnn, torch.ones(1, 3, 8, 8)), (nn.TransformerEncoderLayer(8, 2, 8).eval(), torch.ones(3, 1, 8))):
        explainer = dlbt.Explainer(model)
        first, second = (explainer.plan(inputs, composite=one).table() for one in (name, again))
        assert first == second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names = 'x'", "composite has an entry 'names'. Known entries: choice, name, passes, prefer, streams."),
        ("", "composite has no 'name'. Write e.g. name = \"ours\" in its first line."),
        ("name = 'x'\n[[choice]]\nselect = {}", "composite, choice 1 has no 'use'. Write e.g. use = \"epsilon\"."),
        ("name = 'x'\n[[choice]]\nuse = 'epsilon'\nselect = {ops = 'a'}", "composite, choice 1 has an entry 'ops'. "
         "Known entries: fact, first, has, last, module, module_type, op."),
        ("name = 3", "composite: 'name' is a string, not 3."),
        ("name = 'x'\nchoice = 'epsilon'", "composite: 'choice' is a list, not 'epsilon'."),
        ("name = 'x'\nchoice = ['a']", "composite, choice 1 is 'a', not a table. Write [[choice]] above each choice."),
        ("name = 'x'\n[[choice]]\nuse = 3", "composite, choice 1: 'use' is a string, not 3."),
        ("name = 'x'\n[[choice]]\nuse = 'flat'\nselect = 3", "composite, choice 1: 'select' is a table, not 3."),
        ("name = 'x'\n[[choice]]\nuse = 'flat'\nselect = {op = 3}", "composite, choice 1: 'op' is a string or a list, not 3."),
        ("name = 'x'\n[[choice]]\nuse = 'flat'\nselect = {first = 1}", "composite, choice 1: 'first' is true or false, not 1."),
    ],
)  # fmt: skip
def test_toml_errors(text: str, message: str) -> None:
    with pytest.raises(DlbtError) as caught:
        dlbt.Composite.from_toml(text)
    assert str(caught.value) == message


def test_what_is_no_toml() -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as of_python:
        tomllib.loads("name = ")
    with pytest.raises(DlbtError) as caught:
        dlbt.Composite.from_toml("name = ")
    assert str(caught.value) == f"composite is not TOML: {of_python.value}"


def test_a_name_is_declared_once() -> None:
    found = CompositeSet()
    found.add(dlbt.Composite("ours"))
    with pytest.raises(DlbtError) as caught:
        found.add(dlbt.Composite("ours"))
    assert str(caught.value) == "the composite name 'ours' is declared twice.\n  fix  give one of them another name."


def test_a_pass_that_nobody_brought() -> None:
    known = ", ".join(one.name for one in dlbt.default_plugins().passes)
    with pytest.raises(dlbt.errors.UnknownCompositeError) as caught:
        dlbt.explain(net(), X, composite=dlbt.Composite("ours", passes=("fold",)))
    assert str(caught.value) == f"no graph pass 'fold'. There are: {known}."
    with pytest.raises(dlbt.errors.UnknownCompositeError) as caught:
        graph_pass(Plugins(discover=False), "fold")
    assert str(caught.value) == "no graph pass 'fold'. There are: none."


def test_a_file_is_as_good_as_a_name(tmp_path: Path) -> None:
    """Wherever a composite is taken; read where it is named, so that an edited file is seen by the next call."""
    path = tmp_path / "mine.toml"

    def write(value: float) -> None:
        path.write_text(dlbt.Composite("mine", ((dlbt.Select(op="aten.linear"), epsilon(value)),)).to_toml())

    def used(found: dlbt.Explanation) -> tuple[str, float]:
        return found.plan.composite_name, float(found.plan.steps[0].parameters["epsilon"])

    write(0.1)
    for given in (path, str(path)):
        assert used(dlbt.explain(net(), X, composite=given)) == ("mine", 0.1)
        assert used(dlbt.Explainer(net())(X, composite=given)) == ("mine", 0.1)
        assert dlbt.composite(str(given)) == dlbt.Composite.from_toml(path)
    explainer = dlbt.Explainer(net(), path)
    write(0.2)
    assert used(explainer(X)) == ("mine", 0.1)
    assert used(explainer(X, composite=path)) == ("mine", 0.2)
    write(0.3)
    assert used(explainer(X, composite=str(path))) == ("mine", 0.3)
    with pytest.raises(dlbt.errors.UnknownParameterError) as caught:
        dlbt.composite(str(path), epsilon=1.0)
    assert str(caught.value) == f"the composite {str(path)!r} has no parameters."


def test_a_file_that_holds_no_composite(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(DlbtError) as caught:
        dlbt.explain(net(), X, composite=str(path))
    assert str(caught.value) == (
        f"no composite can be read from {str(path)!r}: No such file or directory.\n"
        "  fix  the path of a file that Composite.to_toml() has written."
    )
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DlbtError) as caught:
        dlbt.Explainer(net(), path)
    assert str(caught.value) == f"{path} is not TOML: it is not text in UTF-8."


def test_what_is_no_composite() -> None:
    with pytest.raises(DlbtError) as caught:
        dlbt.explain(net(), X, composite=3)
    assert str(caught.value) == (
        "a composite is a name, a Composite or the path of a TOML file, not 3.\n"
        "  fix  composite='epsilon', composite=Composite(...), or composite='mine.toml'; 'dlbt composites' lists the names."
    )


def test_auto_says_what_it_chose_and_why() -> None:
    found = dlbt.explain(net(), X)
    assert found.plan.composite_name == "auto -> epsilon (the model has no attention; epsilon = 0, i.e. LRP-0)"
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 3, 8)
    found = dlbt.explain(lambda x: attention(x, x, x)[0].mean(1), x)
    assert found.plan.composite_name == "auto -> attnlrp (the model has attention)"


def test_held_constant() -> None:
    """Nothing is asked for what a held value was computed from; the product's other factor gets all."""

    def model(x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(x.flip(1))

    x = torch.randn(2, 4, dtype=torch.float64)
    half = dlbt.explain(model, x, target=1)
    held = dlbt.explain(model, x, target=1, rules=[(dlbt.Select(op="aten.tanh"), dlbt.Use("constant"))])
    assert torch.allclose(held.relevance[:, 1], held.score)
    assert (held.relevance[:, [0, 2, 3]] == 0).all()
    assert torch.allclose(half.relevance[:, 1], half.score / 2)
    assert list(held.plan.held) == ["tanh"]
    assert "held constant" in str(held.plan)


def test_choices_that_fit_nothing_are_shown() -> None:
    found = dlbt.explain(net(), X, rules=[(dlbt.Select(op="aten.conv2d"), epsilon(0.1))])
    assert found.plan.unused == ("this call's rules: Select(op='aten.conv2d') -> Use('epsilon', epsilon=0.1)",)
    assert "unused choice" in str(found.plan)


def test_plan_rows_name_rule_source_and_reason() -> None:
    row = dlbt.explain(net(), X).plan.table()[0]
    assert row["rule"] == "core:aten.linear#epsilon"
    assert row["source"].startswith("core (dlbt-core 0.")
    assert row["module"] == "0"
    assert row["reason"].startswith("composite auto -> epsilon")
