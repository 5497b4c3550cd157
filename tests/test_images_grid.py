"""Several explained images: grids, their scales, batches, detectors; and what cannot be a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import InputError
from dlbt_core.show.heat import image_rgb
from dlbt_rules_vision import ImageExplanation, ImageGrid, explain_image, explain_images
from vision_pictures import LABELS, OTHER, PICTURE, TRANSFORM, cnn, to_tensor

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def explained() -> ImageExplanation:
    found: ImageExplanation = explain_image(cnn(), PICTURE, transform=TRANSFORM, target=2, labels=LABELS)
    return found


# -- grids -------------------------------------------------------------------------------------------------------------


def test_images_by_targets(tmp_path: Path) -> None:
    OTHER.save(tmp_path / "other.png")
    targets = [2, "dog", dlbt.target.contrast(0, 1)]
    grid = explain_images(cnn(), [PICTURE, tmp_path / "other.png"], transform=TRANSFORM, targets=targets, labels=LABELS)
    assert grid.shape == (2, 3)
    assert grid.rows == ["image 1", "other.png"]
    assert list(grid.columns) == ["class 2 (cow)", "class 1 (dog)", "class 0 (cat) against class 1 (dog)"]
    for row, image in zip(grid, (PICTURE, OTHER), strict=True):
        for cell, target in zip(row, (2, 1, dlbt.target.contrast(0, 1)), strict=True):
            alone = explain_image(cnn(), image, transform=TRANSFORM, target=target)
            assert torch.allclose(cell.relevance, alone.relevance, atol=1e-6)
            assert cell.score == pytest.approx(alone.score, rel=1e-5)
    assert grid[1, 2] is grid[1][2]
    assert len(grid) == 2
    for name, options in {"a.png": {}, "b.svg": {"style": "overlay", "scale": "all"}, "c.png": {"scale": 0.1}}.items():
        assert grid.save(tmp_path / name, **options).stat().st_size > 1000
    text = grid.save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 6
    assert "<h3>other.png, class 1 (dog)</h3>" in text
    assert repr(grid).startswith("<ImageGrid of 2 by 3: image 1, other.png; class 2 (cow), class 1 (dog)")
    png = grid._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_images_by_composites() -> None:
    composites: list[Any] = [
        "epsilon",
        dlbt.Composite("mine", ((dlbt.Select(op="aten.conv2d"), dlbt.Use("gradient")),)),
    ]
    grid = explain_images(
        cnn(), [PICTURE, OTHER], transform=TRANSFORM, composites=composites, names=["a", "b"], target=[0, 1]
    )
    assert (grid.rows, grid.columns) == (["a", "b"], ["epsilon", "mine"])
    assert [[cell.picked for cell in row] for row in grid] == [[0, 0], [1, 1]]
    assert [cell.explanation.plan.composite_name for cell in grid[0]] == ["epsilon", "mine"]


def test_one_image_by_targets_and_composites() -> None:
    options: dict[str, Any] = {"transform": TRANSFORM, "labels": LABELS}
    composites = ["epsilon", "gradient_times_input"]
    row = explain_image(cnn(), PICTURE, targets=[0, 3], **options)
    assert (row.shape, row.columns, row.scale) == ((1, 2), ["class 0 (cat)", "class 3 (hen)"], "row")
    row = explain_image(cnn(), PICTURE, composites=composites, **options)
    assert (row.shape, row.columns, row.scale) == ((1, 2), composites, "each")
    grid = explain_image(cnn(), PICTURE, targets=[0, 3], composites=composites, **options)
    assert (grid.rows, grid.columns) == (["class 0 (cat)", "class 3 (hen)"], composites)
    for row, target in zip(grid, (0, 3), strict=True):
        for cell, composite in zip(row, composites, strict=True):
            alone = explain_image(cnn(), PICTURE, target=target, composite=composite, transform=TRANSFORM)
            assert torch.allclose(cell.relevance, alone.relevance, atol=1e-6)
            assert cell.explanation.plan.composite_name == composite


def test_scales_of_a_grid() -> None:
    grid = explain_images(cnn(), [PICTURE, OTHER], transform=TRANSFORM, targets=[0, 1])
    own = [[float(cell.heat().abs().flatten().sort().values[118]) for cell in row] for row in grid]
    for scale, expected in {
        "each": own,
        "row": [[max(row)] * 2 for row in own],
        "all": [[max(map(max, own))] * 2] * 2,
        0.25: [[0.25] * 2] * 2,
    }.items():
        made = grid.figure(scale=scale)  # type: ignore[arg-type]
        said = [text.get_text().rpartition("max ±")[2] for text in made.texts if "max ±" in text.get_text()]
        said = [number for number in said if number[0].isdigit()]
        assert said == [f"{number:.2g}".replace("-", "−") for row in expected for number in row]


def test_batches_change_nothing() -> None:
    small = PICTURE.crop((0, 0, 8, 12))
    images = [PICTURE, OTHER, small, PICTURE, OTHER, PICTURE]
    sizes = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cnn()

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return self.body(x)  # type: ignore[no-any-return]

    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    grid = explain_images(Watching().eval(), images, transform=TRANSFORM, batch_size=2, target=classes)
    assert sizes == [2, 1, 1]  # one recording per shape of call
    assert [row[0].picked for row in grid] == classes.tolist()
    for row, image, target in zip(grid, images, classes.tolist(), strict=True):
        alone = explain_image(cnn(), image, transform=TRANSFORM, target=target)
        assert torch.allclose(row[0].relevance, alone.relevance, atol=1e-6)
        assert row[0].seen is not None
        assert torch.equal(image_rgb(row[0].seen), torch.tensor(list(image.tobytes())).reshape(12, -1, 3))


def test_an_explainer_is_used_as_it_is() -> None:
    explainer = dlbt.Explainer(cnn(), "gradient_times_input", layers="none")
    found = explain_image(explainer, PICTURE, transform=TRANSFORM)
    assert found.explanation.plan.composite_name == "gradient_times_input"
    assert not found.explanation.layers
    other = explain_image(explainer, PICTURE, transform=TRANSFORM, composite="epsilon")
    assert other.explanation.plan.composite_name == "epsilon"
    with pytest.raises(InputError) as caught:
        explain_image(explainer, PICTURE, transform=TRANSFORM, layers="all")
    assert str(caught.value) == "layers is set where the explainer is made.\n  fix  Explainer(model, layers=...)."


GRID_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "both": (
        {"targets": [1], "composites": ["epsilon"]},
        "got targets and composites; a grid has the images as rows and one of them as columns.\n"
        "  fix  give one of them; explain_image(...) takes both for one image.",
    ),
    "no images": ({"images": []}, "no images.\n  fix  give at least one."),
    "names": ({"names": ["a", "b"]}, "2 names for 1 images.\n  fix  give one name per image."),
    "target and targets": ({"target": 1, "targets": [1]}, "give target or targets, not both."),
    "no targets": ({"targets": []}, "targets is empty: give at least one."),
    "composite and composites": (
        {"composite": "epsilon", "composites": ["epsilon"]},
        "give composite or composites, not both.",
    ),
    "no composites": ({"composites": []}, "composites is empty: give at least one."),
}


@pytest.mark.parametrize("name", GRID_ERRORS)
def test_grids_that_cannot_be(name: str) -> None:
    options, message = GRID_ERRORS[name]
    with pytest.raises(InputError) as caught:
        explain_images(cnn(), **{"images": [PICTURE], "transform": TRANSFORM, **options})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "both"}, "style is 'heat' or 'overlay', not 'both'."),
        ({"scale": "none"}, "scale is 'each', 'row', 'all' or an amount above 0, not 'none'."),
        ({"scale": 0}, "scale is 'each', 'row', 'all' or an amount above 0, not 0."),
    ],
)
def test_figures_that_cannot_be(explained: ImageExplanation, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ImageGrid([[explained]], ["a"], ["b"]).figure(**options)
    assert str(caught.value) == message


# -- detectors that take lists -----------------------------------------------------------------------------------------


class Detector(nn.Module):
    """As torchvision's: takes a list of images, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, stride=3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            cells = self.head(image[None]).flatten(2)[0].T
            order = cells[:, 4].argsort(descending=True)
            found.append(
                {"boxes": cells[order, :4], "scores": cells[order, 4], "labels": torch.ones(len(cells)).long()}
            )
        return found


def test_detectors() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Detector().eval()
    targets = [dlbt.target.detection(), dlbt.target.detection(1, what="x1")]
    grid = explain_images(model, [PICTURE, OTHER], transform=to_tensor, targets=targets, labels=LABELS)
    best = model([to_tensor(OTHER)])[0]
    assert grid[1, 0].score == pytest.approx(float(best["scores"][0].detach()))
    assert grid[1, 1].score == pytest.approx(float(best["boxes"][1, 0].detach()))
    assert grid[1, 0].relevance.shape == (3, 12, 10)
    assert grid[1, 0].title == "score of detection 0, class 1 (dog)"
