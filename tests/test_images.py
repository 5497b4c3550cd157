"""The image front end: pictures in, explained images out; grids, files, notebooks; models of torch and transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_core.errors import DlbtError, InputError, TargetError
from dlbt_core.show.colours import diverging
from dlbt_rules_vision import ImageExplanation, ImageGrid, embed_image, explain_image
from dlbt_rules_vision.images_input import normalisation, prepare
from vision_pictures import LABELS, OTHER, PICTURE, PIXELS, TRANSFORM, Compose, cnn, pillow, to_tensor

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def explained() -> ImageExplanation:
    found: ImageExplanation = explain_image(cnn(), PICTURE, transform=TRANSFORM, target=2, labels=LABELS)
    return found


# -- one image ---------------------------------------------------------------------------------------------------------


def test_it_is_the_explanation_of_what_the_transform_makes(explained: ImageExplanation) -> None:
    expected = dlbt.explain(cnn(), TRANSFORM(PICTURE)[None], target=2)
    assert torch.equal(explained.relevance, expected.relevance[0])
    assert explained.score == float(expected.score[0])
    assert torch.allclose(explained.heat(), expected.relevance[0].double().sum(0))
    assert torch.allclose(explained.heat("positive"), expected.relevance[0].double().clamp(min=0).sum(0))
    assert explained.size == (12, 10)
    assert explained.title == "class 2 (cow)"
    assert repr(explained).startswith(
        f"<ImageExplanation, 12 by 10: class 2 (cow), score {explained.score:.4g}; composite"
    )


def test_what_the_model_saw_is_shown_without_normalisation(explained: ImageExplanation) -> None:
    assert list(explained.image.tobytes()) == PIXELS.flatten().tolist()
    plain = explain_image(cnn(), PICTURE, transform=to_tensor)
    assert list(plain.image.tobytes()) == PIXELS.flatten().tolist()


def test_pictures_are_centred_at_zero_and_robust(explained: ImageExplanation) -> None:
    values = explained.heat()
    amounts = values.abs().flatten().sort().values
    for quantile in (0.99, 0.5):
        scale = float(amounts[round(quantile * len(amounts) + 0.499) - 1])
        picture = explained.heat_image(quantile=quantile)
        assert picture.size == (10, 12)
        for row in range(12):
            for column in range(10):
                exact = float(values[row, column]) / scale
                step = round(max(-1.0, min(1.0, exact)) * 127) / 127
                assert picture.getpixel((column, row)) == diverging(step)
    flat = ImageExplanation(explained.explanation, seen=explained.seen)
    assert flat.overlay(opacity=0.0, grey=False).tobytes() == explained.image.tobytes()
    assert explained.overlay(quantile=0.5).tobytes() != explained.overlay().tobytes()


def test_relevance_in_half_precision_can_be_shown(tmp_path: Path) -> None:
    found = explain_image(cnn().to(torch.bfloat16), PICTURE, transform=TRANSFORM)
    assert found.relevance.dtype == torch.bfloat16
    assert found.heat().dtype == torch.float64
    assert found.save(tmp_path / "a.png").stat().st_size > 1000


def test_layer_maps(explained: ImageExplanation) -> None:
    maps = explained.layer_maps()
    assert list(maps) == ["0.2", "1"] or list(maps) == ["0", "1"]
    assert torch.allclose(maps["1"], explained.explanation.at("1")[0].double().sum(0))
    every = explain_image(cnn(), PICTURE, transform=TRANSFORM, layers="modules")
    assert list(every.layer_maps()) == ["0.0", "0.1", "0.2", "1"]
    assert list(every.layer_maps(["0.*"], "abs_sum")) == ["0.0", "0.1", "0.2"]
    with pytest.raises(DlbtError) as caught:
        explain_image(cnn(), PICTURE, transform=TRANSFORM, layers="none").layers_figure()
    assert str(caught.value) == (
        "no layer was kept that has places to show.\n  fix  explain_image(..., layers='modules') keeps every module's output."
    )


@pytest.mark.parametrize("options", [{}, {"layers": True}, {"pool": "max_abs", "quantile": 0.9}])
def test_files(tmp_path: Path, explained: ImageExplanation, options: dict[str, Any]) -> None:
    png, svg = explained.save(tmp_path / "a.png", **options), explained.save(tmp_path / "a.svg", **options)
    with pillow.open(png) as image:
        assert min(image.size) > 200
    assert svg.read_text().lstrip().startswith("<?xml")


def test_pages(tmp_path: Path, explained: ImageExplanation) -> None:
    text = explained.save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<h3>class 2 (cow)</h3>" in text
    assert text.count("heat map of 12 by 10 pixels") == 2
    assert "Relevance of layers" in text
    assert "Ledger: where the score went" in text
    options = {"title": "A title", "intro": ["An introduction"], "how_to_read": (), "note": "A note"}
    for shown in (explained, ImageGrid([[explained]], ["a"], ["b"])):
        text = shown.to_html(tmp_path / "b.html", **options).read_text(encoding="utf-8")
        assert all(f">{words}<" in text for words in ("A title", "An introduction", "A note"))
        assert "How to read this" not in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path) -> None:
    model, targets = cnn().cuda(), [1, dlbt.target.classes([0, 2]), dlbt.target.cosine(OTHER)]
    row = explain_image(model, PICTURE, transform=TRANSFORM, targets=targets, fallback="gradient")
    alone = explain_image(cnn(), PICTURE, transform=TRANSFORM, targets=targets, fallback="gradient")
    for cell, other in zip(row[0], alone[0], strict=True):
        assert cell.relevance.is_cuda
        assert torch.allclose(cell.heat(), other.heat(), atol=1e-5)
        assert cell.save(tmp_path / "a.png").exists()


def test_notebooks(explained: ImageExplanation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "class 2 (cow)" in explained._repr_html_()
    png = explained._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert explained._repr_png_() is None
    assert "heat map" in explained._repr_html_()  # which needs no matplotlib


def test_show_without_windows(explained: ImageExplanation, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setattr(mpl, "get_backend", lambda: "agg")
    for shown in (explained, ImageGrid([[explained]], ["a"], ["b"])):
        with pytest.raises(DlbtError) as caught:
            shown.show()
        assert str(caught.value) == (
            "no window can be opened: matplotlib's backend is 'agg', which only writes files.\n"
            "  fix  save('picture.png') or to_html('page.html') instead."
        )


def test_an_explanation_of_one_s_own_can_be_shown(tmp_path: Path) -> None:
    explanation = dlbt.explain(cnn(), torch.rand(3, 3, 8, 8))
    saved = dlbt.load(explanation.save(tmp_path / "a.safetensors"))
    for one in (explanation, saved):
        found = ImageExplanation(one, 2, labels=LABELS)
        assert torch.equal(found.relevance, explanation.relevance[2])
        assert found.save(tmp_path / "a.png").exists()
        text = found.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
        assert text.count('<section class="sample">') == 1
        with pytest.raises(DlbtError) as caught:
            found.overlay()
        assert str(caught.value) == (
            "the image itself is not known.\n  fix  ImageExplanation(..., seen=image), shape (C, H, W)."
        )
    with pytest.raises(DlbtError) as caught:
        _ = ImageExplanation(dlbt.explain(nn.Linear(3, 2), torch.ones(1, 3))).relevance
    assert str(caught.value) == "no explained input is an image of shape (B, C, H, W): 'input' (1, 3)."


# -- images in ---------------------------------------------------------------------------------------------------------


def test_pictures_of_all_kinds(tmp_path: Path) -> None:
    expected = prepare(PICTURE, TRANSFORM).pixels
    PICTURE.save(tmp_path / "cat.png")
    palette = PICTURE.quantize(200)
    for image in (PIXELS.numpy(), tmp_path / "cat.png", str(tmp_path / "cat.png"), PICTURE.convert("RGBA")):
        found = prepare(image, TRANSFORM)
        assert torch.equal(found.pixels, expected)
        assert found.name == ("cat.png" if isinstance(image, (str, Path)) else "")
    assert torch.equal(prepare(palette, TRANSFORM).pixels, TRANSFORM(palette.convert("RGB")))
    grey = prepare(PIXELS[..., 0].numpy(), to_tensor)
    assert grey.pixels.shape == (1, 12, 10)
    tensor = torch.rand(1, 3, 8, 8)
    assert torch.equal(prepare(tensor).pixels, tensor[0])
    assert torch.equal(prepare(tensor[0], lambda t: t * 2).pixels, tensor[0] * 2)


def test_normalisations_are_found() -> None:
    assert normalisation(TRANSFORM) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    assert normalisation(to_tensor) is None
    assert normalisation(nn.Sequential(nn.Identity(), Preset())) == ([0.5], [0.25])
    assert normalisation(SimpleNamespace(image_mean=[0.1], image_std=[2.0], do_normalize=True)) == ([0.1], [2.0])
    assert normalisation(SimpleNamespace(image_mean=[0.1], image_std=[2.0], do_normalize=False)) is None
    round_and_round = Compose()
    round_and_round.transforms.append(round_and_round)
    assert normalisation(round_and_round) is None


class Preset(nn.Module):
    """As torchvision's presets: mean and std as lists."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = [0.5], [0.25]


def failing(_picture: Any) -> Tensor:
    raise ValueError("wrong number of channels")


INPUT_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "no transform": (
        {"image": PICTURE},
        "an image of type Image needs a transform or a processor to become the model's input.\n"
        "  fix  transform=weights.transforms() (torchvision), processor=AutoImageProcessor.from_pretrained(...) "
        "(transformers), or pass a tensor of shape (C, H, W).",
    ),
    "both": (
        {"image": PICTURE, "transform": TRANSFORM, "processor": object()},
        "got transform and processor; both make the model's input.\n  fix  give one of them.",
    ),
    "a batch": (
        {"image": torch.rand(2, 3, 4, 4)},
        "the image is not one image: shape (2, 3, 4, 4).\n"
        "  fix  a tensor of shape (C, H, W); explain_images(...) takes several images.",
    ),
    "a transform without a tensor": (
        {"image": PICTURE, "transform": lambda p: p},
        "the transform's result is not one image: Image.\n"
        "  fix  a tensor of shape (C, H, W); explain_images(...) takes several images.",
    ),
    "a transform that fails": (
        {"image": PICTURE.convert("L"), "transform": failing},
        "the transform cannot take this image (mode 'L', 10 by 12 pixels): ValueError: wrong number of channels\n"
        "  fix  give it what it expects; a picture in shades of grey becomes a coloured one by image.convert('RGB').",
    ),
    "an image too many": (
        {"image": PICTURE, "processor": lambda images, return_tensors: {"pixel_values": torch.ones(2, 3, 4, 4)}},
        "the processor's pixel_values is not one image: shape (2, 3, 4, 4).\n"
        "  fix  a tensor of shape (C, H, W); explain_images(...) takes several images.",
    ),
    "a processor that fails": (
        {"image": PICTURE, "processor": lambda images, return_tensors: failing(images)},
        "the processor cannot take this image (mode 'RGB', 10 by 12 pixels): ValueError: wrong number of channels\n"
        "  fix  give it what it expects; a picture in shades of grey becomes a coloured one by image.convert('RGB').",
    ),
    "a processor of nothing": (
        {"image": PICTURE, "processor": lambda images, return_tensors: {}},
        "the processor returned nothing, but no 'pixel_values'.\n"
        "  fix  pass the image processor of the model: AutoImageProcessor.from_pretrained(...).",
    ),
    "a tokenizer": (
        {"image": PICTURE, "processor": lambda images, return_tensors: {"input_ids": torch.ones(1, 2)}},
        "the processor returned 'input_ids', but no 'pixel_values'.\n"
        "  fix  pass the image processor of the model: AutoImageProcessor.from_pretrained(...).",
    ),
    "not an image": (
        {"image": 3, "transform": TRANSFORM},
        "int is not an image.\n  fix  pass a Pillow image, the path of a file, an array of shape (H, W, 3), or a tensor of "
        "shape (C, H, W).",
    ),
    "an array of floats": (
        {"image": PIXELS.float().numpy(), "transform": TRANSFORM},
        "an array of shape (12, 10, 3) and dtype float32 is no picture.\n"
        "  fix  shape (H, W) or (H, W, 3) and dtype uint8, e.g. skimage.util.img_as_ubyte(image).",
    ),
}


@pytest.mark.parametrize("name", INPUT_ERRORS)
def test_images_that_do_not_fit(name: str) -> None:
    options, message = INPUT_ERRORS[name]
    with pytest.raises(InputError) as caught:
        explain_image(cnn(), **options)
    assert str(caught.value) == message


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        prepare(tmp_path / "none.png", TRANSFORM)
    assert str(missing.value) == (
        f"there is no file {str(tmp_path / 'none.png')!r}.\n  fix  the path of a picture."
    )
    text = tmp_path / "text.png"
    text.write_text("text")
    with pytest.raises(InputError) as caught:
        prepare(text, TRANSFORM)
    assert str(caught.value) == (
        f"{str(text)!r} is not a picture that Pillow can read.\n  fix  a PNG, JPEG or other file of pixels."
    )


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explain_image(cnn(), PICTURE, transform=TRANSFORM)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for ask in (lambda: prepare(PICTURE, TRANSFORM), lambda: found.image):
        with pytest.raises(DlbtError) as caught:
            ask()
        assert str(caught.value) == "pictures need Pillow, which cannot be imported.\n  fix  pip install pillow"


# -- targets -----------------------------------------------------------------------------------------------------------


def test_a_class_by_its_label() -> None:
    options: dict[str, Any] = {"transform": TRANSFORM, "labels": LABELS}
    assert explain_image(cnn(), PICTURE, target="Dog", **options).picked == 1
    with pytest.raises(TargetError) as caught:
        explain_image(cnn(), PICTURE, target="dogs", **options)
    assert str(caught.value) == (
        "no class is called 'dogs'. Close: 'dog'.\n  fix  one of the labels, or the number of the class."
    )
    with pytest.raises(TargetError) as caught:
        explain_image(cnn(), PICTURE, target="dog", transform=TRANSFORM)
    assert str(caught.value) == (
        "the target 'dog' is the label of a class, but no labels are known.\n"
        "  fix  labels=weights.meta['categories'], or the number of the class."
    )


def test_an_image_s_similarity_to_another() -> None:
    given: dict[str, Any] = {"transform": TRANSFORM, "fallback": "gradient"}
    found = explain_image(cnn(), PICTURE, target=dlbt.target.cosine(OTHER), **given)
    embedding = embed_image(cnn(), OTHER, transform=TRANSFORM)
    assert torch.equal(embedding, cnn()(TRANSFORM(OTHER)[None])[0])
    mine = cnn()(TRANSFORM(PICTURE)[None]).detach()
    assert found.score == pytest.approx(float(torch.cosine_similarity(mine, embedding[None])))
    again = explain_image(cnn(), PICTURE, target=dlbt.target.cosine(embedding), **given)
    assert torch.equal(found.relevance, again.relevance)
    assert found.title == "cosine with the given embedding"
    same = explain_image(cnn(), PICTURE, target=dlbt.target.cosine(PICTURE), **given)
    assert same.score == pytest.approx(1.0)


def test_no_embedding_among_the_outputs() -> None:
    def signs(x: Tensor) -> Tensor:
        return (x > 0).long()

    for path, message in (
        (None, "no output fits.\n  found  no floating-point output\n"
         "  fix    an embedding of the same model and output: shape (D,) or (samples, D); path= names the output."),
        ("pooled", "the model has no output 'pooled'. It returns: no floating-point output."),
    ):  # fmt: skip
        with pytest.raises(TargetError) as caught:
            embed_image(signs, PICTURE, transform=TRANSFORM, path=path)
        assert str(caught.value) == message


def test_regions_count_in_pixels_of_what_the_model_sees() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 2, stride=2).eval()  # its output has half as many pixels
    out = model(TRANSFORM(PICTURE)[None])[0].detach()
    mask = torch.zeros(12, 10, dtype=torch.bool)
    mask[4:8, :6] = True
    region = dlbt.target.region
    cases = {
        region(1, box=(2, 4, 8, 10)): out[1, 2:5, 1:4].mean(),
        region(1, pixel=(9, 11)): out[1, 5, 4],
        region(1, mask): out[1, 2:4, :3].mean(),
        dlbt.target.contrast(region(1, mask), region(2, mask)): (out[1] - out[2])[2:4, :3].mean(),
    }
    for target, score in cases.items():
        found = explain_image(model, PICTURE, transform=TRANSFORM, target=target)
        assert found.score == pytest.approx(float(score), rel=1e-5)


# -- the package -------------------------------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, dlbt_core, dlbt_rules_vision; dlbt_core.default_plugins(); from dlbt_rules_vision import explain_image\n"
        "assert not {'PIL', 'matplotlib', 'transformers', 'torchvision', 'jinja2'} & set(sys.modules), 'heavy'\n"
        "assert 'explain_image' in dir(dlbt_rules_vision)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_there() -> None:
    import dlbt_rules_vision

    with pytest.raises(AttributeError, match="module 'dlbt_rules_vision' has no attribute 'explain_picture'"):
        _ = dlbt_rules_vision.explain_picture
