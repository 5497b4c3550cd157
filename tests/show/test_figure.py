"""Figures: nothing clipped, nothing overlaps, 0 in the centre of the colour bar, the same bytes each time."""

import io
import sys
from xml.etree import ElementTree

import pytest
import torch

from dlbt_core.errors import DlbtError, InputError
from dlbt_core.show import figure
from dlbt_core.show.colours import diverging
from dlbt_core.show.figure import Panel
from dlbt_core.show.heat import heat_rgb

matplotlib = pytest.importorskip("matplotlib")

VALUES = torch.linspace(-1, 1, 30).reshape(5, 6)
PANEL = Panel(
    heat_rgb(VALUES, 1.0), "a title that is too long for one line of this narrow panel", "score +1, max ±2\nmore"
)


def drawn(panels=((PANEL, PANEL), (PANEL, None)), **options):
    made = figure.figure(panels, **options)
    made.canvas.draw()
    return made


def boxes(made):
    return [text.get_window_extent() for text in made.texts] + [axes.get_window_extent() for axes in made.axes]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"title": "class 3 ($x$ & <b>): score 1", "note": "small print " * 12, "scale": 0.013},
        {"rows": ["a first row", "vit.embeddings.patch_embeddings.projection"]},
        {"title": "a very long heading that says much more than fits into one line of a small figure", "width": 1.2},
    ],
)
def test_nothing_is_clipped_and_nothing_overlaps(options):
    made = drawn(**options)
    width, height = made.canvas.get_width_height()
    found = [box for box in boxes(made) if box.width]
    for box in found:
        assert -1 <= box.x0 <= box.x1 <= width + 1
        assert -1 <= box.y0 <= box.y1 <= height + 1
    for i, box in enumerate(found):
        for other in found[i + 1 :]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 1 or down <= 1


def test_words_are_no_formulas_and_paths_break_at_dots():
    made = drawn(title="$\\alpha", rows=["vit.embeddings.patch_embeddings", ""])
    texts = [text.get_text() for text in made.texts]
    assert "$\\alpha" in texts
    assert "vit.\nembeddings.\npatch_\nembeddings" in texts


@pytest.mark.parametrize("scale", [None, 0.02])
def test_zero_is_in_the_centre_of_the_colour_bar(scale):
    made = drawn(scale=scale)
    bar = made.axes[-1]
    low, high = bar.get_xlim()
    assert low == -high
    assert [label.get_text() for label in bar.get_xticklabels()] == (
        ["−max", "0", "+max"] if scale is None else ["−0.02", "0", "+0.02"]
    )
    assert bar.get_xticks().tolist() == [low, 0, high]
    (mesh,) = bar.collections[-1:] if bar.collections else bar.get_children()[:1]
    zero, most, least = ([round(255 * c) for c in mesh.cmap(mesh.norm(v))[:3]] for v in (0.0, high, low))
    assert [zero, most, least] == [list(diverging(v)) for v in (0.0, 1.0, -1.0)]
    assert mesh.cmap.N % 2 == 1


def test_the_same_bytes_each_time():
    for kind in figure.FORMATS:
        assert figure.encode(drawn(), kind) == figure.encode(drawn(), kind)


def test_files(tmp_path):
    png = figure.save(drawn(), tmp_path / "new" / "a.PNG", dpi=50)
    with pytest.importorskip("PIL.Image").open(png) as image:
        assert image.size[0] == pytest.approx(50 * drawn().get_size_inches()[0], abs=1)
    svg = ElementTree.parse(figure.save(drawn(), tmp_path / "a.svg")).getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}image")) >= 3
    assert figure.save(drawn(), tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_an_unknown_ending(tmp_path):
    with pytest.raises(InputError) as caught:
        figure.save(drawn(), tmp_path / "a.jpeg")
    assert str(caught.value) == (
        f"no picture can be written to {str(tmp_path / 'a.jpeg')!r}: the ending says the format.\n"
        "  fix  end it in one of: .png, .svg, .pdf."
    )
    assert not (tmp_path / "a.jpeg").exists()


def test_pyplot_and_settings_are_left_alone():
    before = dict(matplotlib.rcParams)
    figure.encode(drawn(), "svg")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DlbtError) as caught:
        figure.figure([[PANEL]])
    assert str(caught.value) == (
        "figures need matplotlib, which cannot be imported.\n"
        "  fix  pip install matplotlib, or dlbt-core[plots]; to_html() needs neither."
    )


def test_a_window_that_cannot_be_opened(monkeypatch):
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "agg")
    with pytest.raises(DlbtError) as caught:
        figure.show(drawn())
    assert str(caught.value) == (
        "no window can be opened: matplotlib's backend is 'agg', which only writes files.\n"
        "  fix  save('picture.png') or to_html('page.html') instead."
    )


def test_a_window(monkeypatch):
    from matplotlib import pyplot

    seen = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "something with windows")
    monkeypatch.setattr(pyplot, "show", lambda: seen.append(pyplot.gcf().axes[0].images[0].get_array().shape))
    made = drawn()
    figure.show(made)
    with pytest.importorskip("PIL.Image").open(io.BytesIO(figure.encode(made, "png"))) as image:
        assert [shape[:2] for shape in seen] == [image.size[::-1]]
    assert not pyplot.get_fignums()


def test_a_notebook_shows_the_picture(monkeypatch):
    from types import SimpleNamespace

    shown = []
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    display = SimpleNamespace(Image=lambda data: data, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    made = drawn()
    figure.show(made)
    assert shown == [figure.encode(made, "png")]
