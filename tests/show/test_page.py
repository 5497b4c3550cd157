"""Pages: complete, safe, and with the numbers in text."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import dlbt_core as dlbt
from dlbt_core.errors import InputError
from dlbt_core.show.notebook import fragment
from dlbt_core.show.page import Section, Table, write_page, write_report
from dlbt_core.show.views import Exhibit


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.embedding(ids)).mean(1))


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="module")
def of_tokens():
    return seeded(lambda: dlbt.explain(Ids().eval(), torch.randint(0, 20, (2, 4))))


@pytest.fixture(scope="module")
def of_images():
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 5, 3))
    return seeded(lambda: dlbt.explain(nn.Sequential(*layers).eval(), torch.randn(2, 3, 6, 5)))


@pytest.fixture(scope="module")
def of_vectors():
    layers = (nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    return seeded(lambda: dlbt.explain(nn.Sequential(*layers).eval(), torch.randn(3, 30)))


@pytest.fixture
def read(tmp_path):
    def page(explanation, **options):
        return Reader(explanation.to_html(tmp_path / "page.html", **options).read_text(encoding="utf-8"))

    return page


def values_of(reader, attribute):
    return [value for _, name, value in reader.attributes if name == attribute]


def test_tokens(read, of_tokens):
    tokens = [["[CLS]", "one", "##two", "x"], ["[CLS]", "a", "b"]]
    reader = read(of_tokens, tokens=tokens, labels=["red", "green", "blue"])
    classes = [c for c in values_of(reader, "class") if c and c.startswith("token") and c != "tokens"]
    assert classes == ["token special", "token", "token joined", "token", "token special", "token", "token"]
    assert "two" in reader.texts
    assert "1 further positions" in reader.text
    label = ["red", "green", "blue"][of_tokens.picked[0]]
    assert f"class {of_tokens.picked[0]} ({label})" in reader.text


def test_every_token_has_its_number(read, of_tokens):
    reader = read(of_tokens)
    assert sum(c == "token" for c in values_of(reader, "class")) == 8
    titles = [title for title in values_of(reader, "title") if title.startswith("position")]
    amounts = [float(title.rpartition(": ")[2].replace("−", "-")) for title in titles]
    assert torch.allclose(torch.tensor(amounts), of_tokens.relevance.flatten(), atol=1e-3)


def test_images(read, of_images):
    reader = read(of_images, images=torch.rand(2, 3, 6, 5))
    assert reader.tags.count("img") == 4
    assert reader.tags.count("source") == 2
    alts = values_of(reader, "alt")
    assert alts.count("the input") == 2
    assert sum("heat map of 6 by 5 pixels; most for: +" in alt for alt in alts) == 2
    assert read(of_images).tags.count("img") == 4  # the input as it went in


@pytest.fixture(scope="module")
def of_large_images():
    layers = (nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return seeded(lambda: dlbt.explain(nn.Sequential(*layers).eval(), torch.randn(2, 3, 80, 72)))


def test_large_images_have_an_overlay(read, of_images, of_large_images):
    over = "the heat map over the input"
    assert values_of(read(of_large_images), "alt").count(over) == 2
    assert over not in values_of(read(of_images), "alt")
    small = torch.rand(2, 3, 20, 18)  # not the size of the relevance: it stands beside the map
    assert over not in values_of(read(of_large_images, images=small), "alt")


def test_maps_of_layers_if_asked_for(read, of_large_images):
    assert "figure" not in read(of_large_images).tags
    reader = read(of_large_images, layer_maps=True)
    assert reader.tags.count("figure") == 2 * 2
    assert [text for text in reader.texts if text in "01234"][:2] == ["0", "1"]
    total = f"{float(of_large_images.at('0')[0].double().sum()):+.3g}".replace("-", "−")
    assert total in reader.text
    assert read(of_large_images, layer_maps=["1"]).tags.count("figure") == 2


def test_some_samples_only(read, of_vectors):
    reader = read(of_vectors, only=[2, 0], names=["first", "second", "third"])
    assert reader.texts.count("third") == 2  # its heading, and its column of the ledger
    assert reader.texts.index("third") < reader.texts.index("first")
    assert "second" not in reader.texts
    assert "further samples" not in reader.text
    shown = reader.texts[reader.texts.index("score ") + 1]
    assert float(shown.replace("−", "-")) == pytest.approx(float(of_vectors.score[2]), rel=1e-3)


def test_pool_and_quantile(read, of_large_images):
    maps = [values_of(read(of_large_images, **o), "srcset") for o in ({}, {"pool": "abs_sum"}, {"quantile": 0.5})]
    assert len({tuple(found) for found in maps}) == 3


def test_vectors_show_their_largest_entries(read, of_vectors):
    reader = read(of_vectors, top=7)
    assert sum(c.startswith("bar ") for c in values_of(reader, "class")) == 21
    assert reader.text.count("23 further entries") == 3
    largest = int(of_vectors.relevance[0].abs().argmax())
    assert f"[{largest}]" in reader.texts


def test_ledger_and_plan(read, of_vectors):
    reader = read(of_vectors)
    assert "absorbed: bias" in reader.texts
    assert "the books balance" in reader.text
    for rule, reason, _ in of_vectors.plan.summary():
        assert rule in reader.texts
        assert reason in reader.text
    for row in of_vectors.plan.table():
        assert row["node"] in reader.texts
    assert "details" in reader.tags


def test_a_saved_explanation_gives_the_same_page(tmp_path, of_tokens, of_images, of_vectors):
    for explanation in (of_tokens, of_images, of_vectors):
        loaded = dlbt.load(explanation.save(tmp_path / "e.safetensors"))
        pages = [e.to_html(tmp_path / "page.html").read_text(encoding="utf-8") for e in (explanation, loaded)]
        assert pages[0] == pages[1]


def test_text_from_outside_is_escaped(read, of_tokens):
    evil = "<script>alert(1)</script>"
    quote = '"><img src=x onerror=alert(1)>'
    reader = read(
        of_tokens, tokens=[[evil, quote, "x", "y"]] * 2, names=[evil, quote], labels=[evil] * 3, heading=evil, note=quote,
        title=evil, intro=[quote],
    )  # fmt: skip
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert evil in reader.texts


def without_data(text: str) -> str:
    """A page without its pictures: their letters may spell anything."""
    return re.sub(r"data:[\w/+;]+base64,[\w+/=]+", "", text)


def test_nothing_comes_from_outside(tmp_path, of_tokens, of_images):
    path = write_page([of_tokens, Exhibit(of_images, images=torch.rand(2, 3, 6, 5))], tmp_path / "new" / "page.html")
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", without_data(text))
    assert all(v.startswith("data:") for v in [*values_of(reader, "src"), *values_of(reader, "href")])
    assert all(v.startswith("data:") for v in values_of(reader, "srcset"))
    assert not {"script", "iframe", "object", "embed", "form"} & set(reader.tags)
    assert "default-src 'none'" in text


def test_a_plan_that_comes_again_is_not_repeated(tmp_path, of_vectors):
    reader = Reader(write_page([of_vectors, of_vectors], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert reader.text.count("The same rules for the same reasons as above.") == 1


def test_the_plan_of_a_target_function_is_shown(read):
    def norm_of_logits(out):
        return (out * 2.0).sum(-1)

    model = seeded(lambda: nn.Linear(4, 3)).eval()
    reader = read(dlbt.explain(model, torch.ones(2, 4), target=dlbt.target.function(norm_of_logits)))
    assert "norm_of_logits" in reader.text
    assert "target function: the op's default" in reader.text


def test_what_cannot_be_told_apart_per_sample_has_one_cell(read, of_vectors):
    from dataclasses import replace

    ledger = replace(of_vectors.ledger, unassigned={"bias": torch.tensor(1.0)})
    reader = read(replace(of_vectors, ledger=ledger))
    assert ("td", "colspan", "3") in reader.attributes
    assert "NOT balance" in reader.text


def test_one_sample_without_a_batch(read):
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))).eval()
    reader = read(dlbt.explain(model, torch.ones(5)))
    assert sum(c.startswith("bar ") for c in values_of(reader, "class")) == 5


def test_more_samples_than_shown(read, of_vectors):
    reader = read(of_vectors, samples=2)
    assert "1 further samples are not shown" in reader.text
    assert "sample 2" not in reader.texts


def test_kinds_overrule_the_guess(read, of_vectors):
    reader = read(of_vectors, kinds={"input": "tokens"})
    assert sum(c == "token" for c in values_of(reader, "class")) == 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": [["a"]]}, "1 tokens for 2 samples.\n  fix  tokens has one entry per sample."),
        ({"tokens": [["a"] * 9] * 2}, "9 tokens for 4 positions.\n"
         "  fix  give one token per position, in the order of the ids."),
        ({"names": ["a"] * 3}, "3 names for 2 samples.\n  fix  names has one entry per sample."),
        ({"picked": [[]]}, "1 picked for 2 samples.\n  fix  picked has one entry per sample."),
        ({"tokens": {"nope": [["a"]] * 2}}, "tokens: no explained input 'nope'. There are: 'ids'."),
        ({"kinds": {"nope": "bars"}}, "kinds: no explained input 'nope'. There are: 'ids'."),
        ({"kinds": {"ids": "image"}}, "relevance of shape (4,) per sample is not that of an image.\n"
         "  fix  leave kinds= out, or give relevance of shape (C, H, W) or (H, W)."),
        ({"only": [0, 2]}, "only: there is no sample 2; there are 2, 0 to 1."),
        ({"layer_maps": True}, "layer_maps: no explained input is an image, so the layers have no places to show."),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(tmp_path, of_tokens, options, message):
    with pytest.raises(InputError) as caught:
        of_tokens.to_html(tmp_path / "page.html", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "page.html").exists()


def test_report_with_tables(tmp_path):
    table = Table("About", ("what", "how many"), [("<b>", "1"), ("c", "2")], strong=frozenset({(1, 1)}))
    path = write_report([Section("A part", ["Some text."], [table])], tmp_path / "r.html", title="R", how_to_read=())
    reader = Reader(path.read_text(encoding="utf-8"))
    assert reader.tags.count("strong") == 1
    assert "How to read this" not in reader.text
    assert "<b>" in reader.texts


def test_notebooks(of_tokens, of_images, of_vectors):
    for explanation in (of_tokens, of_images, of_vectors):
        text = without_data(explanation._repr_html_())
        reader = Reader(text)
        assert reader.tags[:2] == ["div", "style"]
        assert not {"html", "body", "script", "link"} & set(reader.tags)
        assert not re.search(r"https?:|//[a-z]|@import|url\(|:root|(^|\n)(body|p|table) ?{(?![^<]*}\n</style>)", text)
        assert "largest class" in reader.text
    assert fragment([of_vectors], samples=2).count('<section class="sample">') == 2
    assert "to_html(path, samples=3) shows all" in fragment([of_vectors], samples=2)
