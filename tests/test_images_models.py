"""The image front end and the vision targets with models, transforms and processors of torchvision and transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dlbt_core as dlbt
from dlbt_rules_vision import embed_image, explain_image, explain_images
from dlbt_rules_vision.images_input import takes_list

pillow = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
PIXELS = torch.randint(0, 256, (40, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PICTURE = pillow.fromarray(PIXELS.numpy()).resize((128, 160), pillow.Resampling.BICUBIC)
OTHER = PICTURE.transpose(pillow.Transpose.ROTATE_180)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def close(picture: Any, other: Any, most: float = 1.5) -> bool:
    """Whether two pictures are the same but for rounding."""
    first, second = (torch.tensor(list(p.tobytes())).double() for p in (picture, other))
    return bool((first - second).abs().mean() < most)


# -- transformers ------------------------------------------------------------------------------------------------------

transformers = pytest.importorskip("transformers")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
NAMES = dict(enumerate(["cat", "dog", "cow", "hen"]))


def processor(size: int = 64, **options: Any) -> Any:
    return transformers.ViTImageProcessor(size={"height": size, "width": size}, **options)


def classifier() -> nn.Module:
    config = transformers.ViTConfig(**TINY, image_size=64, num_labels=4, id2label=NAMES)
    return seeded(lambda: transformers.ViTForImageClassification(config))


def test_a_classifier_and_its_processor(tmp_path: Path) -> None:
    model = classifier()
    found = explain_image(model, PICTURE, processor=processor())
    pixels = processor()(images=PICTURE, return_tensors="pt")["pixel_values"]
    expected = dlbt.explain(model, pixel_values=pixels)
    assert torch.equal(found.relevance, expected.relevance[0])
    assert found.title == f"class {found.picked} ({NAMES[found.picked]})"
    assert close(found.image, PICTURE.resize((64, 64), pillow.Resampling.BILINEAR))
    maps = found.layer_maps()
    assert {tuple(values.shape) for values in maps.values()} == {(8, 8)}
    patches = maps["vit.embeddings.patch_embeddings"]
    assert torch.allclose(patches.sum(), found.explanation.at("vit.embeddings.patch_embeddings").double().sum())
    for name, layers in (("a.png", False), ("b.svg", True)):
        assert found.save(tmp_path / name, layers=layers).stat().st_size > 1000
    assert explain_image(model, PICTURE, processor=processor(), target="dog").picked == 1


@pytest.mark.parametrize("options", [{"do_normalize": False}, {"do_normalize": False, "do_rescale": False}])
def test_processors_that_do_less(options: dict[str, Any]) -> None:
    found = explain_image(classifier(), PICTURE, processor=processor(**options))
    resized = PICTURE.resize((64, 64), pillow.Resampling.BILINEAR)
    assert close(found.image, resized, 1.5 if len(options) == 1 else 30)  # unscaled numbers are stretched


def test_labels_that_are_only_numbers_are_left_out() -> None:
    config = transformers.ViTConfig(**TINY, image_size=64, num_labels=3)
    model = seeded(lambda: transformers.ViTForImageClassification(config))
    assert explain_image(model, PICTURE, processor=processor(), target=1).title == "class 1"


def test_similarity_of_embeddings() -> None:
    model = seeded(lambda: transformers.ViTModel(transformers.ViTConfig(**TINY, image_size=64)))
    found = explain_images(model, [PICTURE, OTHER], processor=processor(), target=dlbt.target.cosine(OTHER))
    assert [row[0].score for row in found][1] == pytest.approx(1, abs=1e-5)
    embedding = embed_image(model, OTHER, processor=processor())
    pixels = processor()(images=OTHER, return_tensors="pt")["pixel_values"]
    assert torch.allclose(embedding, model(pixel_values=pixels).pooler_output[0].detach(), atol=1e-6)
    assert found[0, 0].explanation.ledger.error < 1e-5


def test_an_embedding_beside_a_text_s() -> None:
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    config = transformers.CLIPConfig(
        text_config={**text, "eos_token_id": 2}, vision_config={**TINY, "image_size": 64}, projection_dim=12
    )
    model = seeded(lambda: transformers.CLIPModel(config))
    words = {"input_ids": torch.tensor([[0, 5, 2]])}
    target = dlbt.target.cosine(OTHER)
    found = explain_image(model, PICTURE, processor=processor(), target=target, **words)
    assert list(found.explanation.inputs) == ["pixel_values"]
    pixels = [processor()(images=p, return_tensors="pt")["pixel_values"] for p in (PICTURE, OTHER)]
    mine, other = (model(pixel_values=p, **words).image_embeds for p in pixels)
    assert found.score == pytest.approx(float(torch.cosine_similarity(mine, other).detach()), abs=1e-5)


def test_a_region_of_a_segmentation_at_a_quarter_of_the_size() -> None:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 2],
        num_labels=3,
    )  # fmt: skip
    model = seeded(lambda: transformers.SegformerForSemanticSegmentation(config))
    target = dlbt.target.region(1, box=(8, 16, 40, 64))
    found = explain_image(model, PICTURE, processor=processor(), target=target, fallback="gradient")
    logits = model(processor()(images=PICTURE, return_tensors="pt")["pixel_values"]).logits
    assert logits.shape == (1, 3, 16, 16)
    assert found.score == pytest.approx(float(logits[0, 1, 4:16, 2:10].mean().detach()), abs=1e-5)
    assert found.picked == 1


@pytest.mark.parametrize("what", ["score", "x1"])
def test_a_detector_of_transformers(what: str) -> None:
    config = transformers.YolosConfig(
        **TINY,
        image_size=[64, 64],
        num_detection_tokens=5,
        num_labels=4,
        id2label=NAMES,
        use_mid_position_embeddings=False,
    )
    model = seeded(lambda: transformers.YolosForObjectDetection(config))
    target = dlbt.target.detection(what=what)
    found = explain_image(model, PICTURE, processor=processor(), target=target, fallback="gradient")
    out = model(processor()(images=PICTURE, return_tensors="pt")["pixel_values"])
    values = out.logits[0].softmax(-1)[:, :4].detach()
    query, label = divmod(int(values.argmax()), 4)
    assert found.picked == (query, label)
    box = out.pred_boxes[0, query].detach()
    expected = out.logits[0, query, label].detach() if what == "score" else box[0] - box[2] / 2
    assert found.score == pytest.approx(float(expected), abs=1e-5)
    assert found.title == f"{what} of detection 0, class {label} ({NAMES[label]})"
    assert found.explanation.ledger.error < 1e-3


# -- torchvision -------------------------------------------------------------------------------------------------------


def calibrated(model: nn.Module, *pixels: Tensor) -> nn.Module:
    """A random network whose batch norms have seen the images, so that its activations are of a reasonable size."""
    with torch.no_grad():
        model.train()(torch.stack(pixels).repeat(2, 1, 1, 1))
    return model.eval()


@pytest.mark.torchvision
def test_a_classifier_of_torchvision_with_its_preset(tmp_path: Path) -> None:
    from torchvision import models

    weights = models.ResNet18_Weights.IMAGENET1K_V1
    transform, labels = weights.transforms(crop_size=64, resize_size=64), weights.meta["categories"]
    model = calibrated(seeded(lambda: models.resnet18(weights=None)), transform(PICTURE), transform(OTHER))
    found = explain_image(model, PICTURE, transform=transform, target="tabby", labels=labels)
    assert found.title == "class 281 (tabby)"
    resized = PICTURE.resize((64, 80), pillow.Resampling.BILINEAR).crop((0, 8, 64, 72))
    assert close(found.image, resized)
    assert {"layer1.1", "layer2.1", "layer3.1", "layer4.1"} <= set(found.layer_maps())
    assert found.save(tmp_path / "a.png").exists()
    assert found.explanation.ledger.error < 1e-4


@pytest.mark.torchvision
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_transforms_of_both_versions(version: str) -> None:
    from torchvision import transforms
    from torchvision.transforms import v2

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    if version == "v1":
        parts = [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize(mean, std)]
        transform: Any = transforms.Compose(parts)
    else:
        made = [v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        transform = v2.Compose(made)
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    found = explain_image(model, PICTURE, transform=transform)
    assert close(found.image, PICTURE.resize((32, 32), pillow.Resampling.BILINEAR))


@pytest.mark.torchvision
def test_a_region_of_a_segmentation_of_torchvision() -> None:
    from torchvision.models import segmentation

    make = segmentation.lraspp_mobilenet_v3_large
    model = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=4))
    transform = segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.transforms(resize_size=64)
    model = calibrated(model, transform(PICTURE), transform(OTHER))
    found = explain_image(model, PICTURE, transform=transform, target=dlbt.target.region(), fallback="gradient")
    out = model(transform(PICTURE)[None])["out"][0].detach()
    largest = int(out.argmax(0).flatten().mode().values)
    assert found.picked == largest
    assert found.score == pytest.approx(float(out[largest][out.argmax(0) == largest].mean()), rel=1e-3, abs=1e-5)
    assert found.title == f"mean of class {largest} over the pixels predicted as it"


@pytest.mark.torchvision
@pytest.mark.slow
def test_a_detector_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import detection

    make = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    options = {"min_size": 64, "max_size": 64, "box_detections_per_img": 4, "box_score_thresh": 0.0}
    model = seeded(lambda: make(weights=None, weights_backbone=None, num_classes=4, **options))
    assert takes_list(model)
    transform = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1.transforms()
    targets = [dlbt.target.detection(), dlbt.target.detection(1), dlbt.target.detection(what="width")]
    row = explain_image(model, PICTURE, transform=transform, targets=targets, fallback="gradient", labels=list("_abc"))
    with torch.no_grad():
        (out,) = model([transform(PICTURE)])
    expected = [out["scores"][0], out["scores"][1], out["boxes"][0, 2] - out["boxes"][0, 0]]
    assert [cell.score for cell in row[0]] == pytest.approx([float(e) for e in expected], rel=1e-4)
    assert [cell.picked for cell in row[0]] == [(i, int(out["labels"][i])) for i in (0, 1, 0)]
    assert row[0, 0].relevance.shape == (3, 160, 128)
    assert close(row[0, 0].image, PICTURE, 0.1)
    assert row.save(tmp_path / "a.png").exists()
