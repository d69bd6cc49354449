"""Crops against the numbers of the published code, and against its rule on images of our own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from model.crop import (
    CROP_RULES,
    CropAffine,
    bbox_of_joints,
    crop_affine,
    crop_box,
    crop_image,
    joints_to_crop,
    joints_to_image,
    require_opencv4,
    to_uint8,
)
from model.errors import ModelError

PARITY = Path(__file__).resolve().parents[2] / ".." / "shared" / "reference" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.exists(), reason="needs the recorded numbers")

# Boxes of a 640 x 428 image and what the published code made of them, from parity/preprocess.json.
RECORDED_BOXES = [
    ((340.8, 232.0, 20.7, 20.7), 1.25, (338.3375, 229.5375, 24.625, 24.625)),
    ((-30.0, -20.0, 120.0, 100.0), 1.25, (-14.875, -24.875, 148.75, 148.75)),
    ((560.0, 380.0, 120.0, 100.0), 1.25, (550.125, 354.125, 98.75, 98.75)),
    ((10.0, 200.0, 600.0, 12.0), 1.25, (-64.875, -168.875, 748.75, 748.75)),
    ((200.0, 120.0, 150.0, 130.0), 1.5, (162.75, 72.75, 223.5, 223.5)),
]


@pytest.mark.parametrize(("bbox", "factor", "expected"), RECORDED_BOXES)
def test_a_box_becomes_the_square_of_the_published_code(
    bbox: tuple[float, ...], factor: float, expected: tuple[float, ...]
) -> None:
    box = crop_box(bbox, 640, 428, replace(CROP_RULES["demo"], factor=factor))
    assert box is not None
    np.testing.assert_allclose(box, expected, atol=1e-12)


def test_a_box_of_integers_is_not_truncated() -> None:
    box = crop_box([300, 330, 90, 50], 640, 480, CROP_RULES["demo"])
    assert box is not None
    assert box.tolist() == [288.875, 298.875, 111.25, 111.25]


@pytest.mark.parametrize(
    "bbox",
    [(100, 100, 0, 50), (700, 100, 50, 50), (100, 100, -5, 50), (10, 10, 1, 1), (float("nan"), 0, 50, 50)],
)
@pytest.mark.parametrize("rule", CROP_RULES)
def test_a_box_without_area_in_the_image_has_no_crop(bbox: tuple[float, ...], rule: str) -> None:
    assert crop_box(bbox, 640, 428, CROP_RULES[rule]) is None


@needs_parity
def test_matrices_equal_the_recorded_ones_to_the_last_bit() -> None:
    recorded = json.loads((PARITY / "preprocess.json").read_text())
    cases = [case for case in recorded["cases"] if case["processed"]]
    assert len(cases) == 10
    for case in cases:
        affine = crop_affine(
            case["processed"],
            256,
            image_width=640,
            scale=case["scale"],
            rotation_deg=case["rot_deg"],
            flip=case["flip"],
        )
        np.testing.assert_array_equal(affine.image_to_crop, np.float32(case["trans"]), err_msg=case["name"])
        np.testing.assert_array_equal(
            _unmirrored(affine), np.float32(case["inv_trans"]), err_msg=case["name"]
        )


@needs_parity
@pytest.mark.parametrize(
    ("name", "index"), [("HO3D_train", 0), ("DEX_YCB_train_right", 0), ("DEX_YCB_train_left", 1)]
)
@pytest.mark.parametrize("augmentation", ["noaug", "aug"])
def test_training_crops_and_targets_are_those_of_the_published_loader(
    name: str, index: int, augmentation: str
) -> None:
    recorded = json.loads((PARITY / "data.json").read_text())
    dataset = name.removesuffix("_right").removesuffix("_left").replace("DEX_YCB_train", "DEX_YCB")
    joints_2d = _projected(recorded["annotations"][dataset]["annotations"][index])
    expected, drawn = recorded[f"{name}_{augmentation}"], recorded["aug_used"][augmentation]

    box = crop_box(bbox_of_joints(joints_2d), 640, 428, CROP_RULES["training"])
    assert box is not None
    np.testing.assert_allclose(box, expected["bbox"], atol=1e-4)
    affine = crop_affine(
        box,
        256,
        image_width=640,
        scale=drawn["scale"],
        rotation_deg=drawn["rot"],
        flip=name.endswith("left"),
    )
    in_crop = joints_to_crop(joints_2d, affine)
    np.testing.assert_allclose(in_crop / 256, expected["targets"]["joints_img"], atol=1e-6)
    np.testing.assert_allclose(joints_to_image(in_crop, affine.crop_to_image), joints_2d, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_crop_is_the_bilinear_mix_at_positions_rounded_to_a_32nd_of_a_pixel(seed: int, flip: bool) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (random.integers(60, 500), random.integers(60, 500), 3), dtype=np.uint8)
    box = [random.uniform(-60, 300), random.uniform(-60, 300), *[random.uniform(20, 400)] * 2]
    turn = {"scale": random.uniform(0.75, 1.25), "rotation_deg": random.uniform(-60, 60)} if seed % 2 else {}
    affine = crop_affine(box, 256, image_width=image.shape[1], flip=flip, **turn)
    np.testing.assert_allclose(crop_image(image, affine), _opencv4_rule(image, affine), atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_equals_the_warp_of_the_whole_image_bit_for_bit(flip: bool) -> None:
    random = np.random.default_rng(5)
    image = random.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for _ in range(20):
        box = [random.uniform(-60, 850), random.uniform(-60, 650), *[random.uniform(5, 300)] * 2]
        affine = crop_affine(box, 256, image_width=900, rotation_deg=random.uniform(-60, 60), flip=flip)
        whole = (image[:, ::-1] if flip else image).astype(np.float32)
        expected = cv2.warpAffine(whole, affine.image_to_crop, (256, 256), flags=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(crop_image(image, affine), expected)


def test_a_crop_beside_the_image_is_black() -> None:
    affine = crop_affine([900, 50, 80, 80], 64, image_width=100)
    assert not crop_image(np.full((100, 100, 3), 255, np.uint8), affine).any()


def test_a_spot_in_a_mirrored_crop_leads_back_to_its_place_in_the_image() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[70, 150] = 255
    affine = crop_affine([130, 50, 40, 40], 256, image_width=200, flip=True)
    crop = crop_image(image, affine)[..., 0]
    rows, columns = np.mgrid[:256, :256]
    spot = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(joints_to_image(spot, affine.crop_to_image), [150, 70], atol=0.05)


def test_rounding_a_crop_to_grey_levels_moves_no_value_by_more_than_half_a_level() -> None:
    crop = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    assert np.abs(to_uint8(crop) - crop).max() <= 0.5
    assert to_uint8(np.array([-3.0, 300.0], np.float32)).tolist() == [0, 255]


def test_a_crop_wider_than_opencv_can_warp_is_refused_with_its_size() -> None:
    image = np.zeros((4, 40_000, 3), np.uint8)
    affine = crop_affine([0, 0, 40_000, 40_000], 64, image_width=40_000)
    with pytest.raises(ModelError, match="OpenCV warps at most 32766"):
        crop_image(image, affine)


def test_this_environment_has_the_opencv_that_the_weights_expect() -> None:
    require_opencv4()


def _projected(annotation: dict[str, Any]) -> NDArray[np.float64]:
    if "joints_img" in annotation:
        return np.array(annotation["joints_img"])
    joints, camera = np.array(annotation["joints_coord_cam"]), annotation["cam_param"]
    projected: NDArray[np.float64] = joints[:, :2] / joints[:, 2:] * camera["focal"] + camera["princpt"]
    return projected


def _unmirrored(affine: CropAffine) -> NDArray[np.float64]:
    """crop_to_image as the published code has it: to the mirrored image."""
    matrix = affine.crop_to_image.copy()
    if affine.mirrored_width is not None:
        matrix[0] = [0, 0, affine.mirrored_width - 1] - matrix[0]
    return matrix


def _opencv4_rule(image: NDArray[np.uint8], affine: CropAffine) -> NDArray[np.float64]:
    """OpenCV 4's warpAffine, written out (the rule as stated in RELEASE_NETWORK.md, section 3)."""
    pixels = (image if affine.mirrored_width is None else image[:, ::-1]).astype(np.float64)
    height, width = pixels.shape[:2]
    linear = np.linalg.inv(affine.image_to_crop[:, :2].astype(np.float64))
    shift = -linear @ affine.image_to_crop[:, 2]
    x, y = np.arange(affine.size), np.arange(affine.size)[:, None]
    fixed = [
        (np.rint(1024 * (row[1] * y + b)) + 16 + np.rint(1024 * row[0] * x)).astype(np.int64) >> 5
        for row, b in zip(linear, shift, strict=True)
    ]
    mixed = np.zeros((affine.size, affine.size, 3))
    for step_y in (0, 1):
        for step_x in (0, 1):
            at_x, at_y = (fixed[0] >> 5) + step_x, (fixed[1] >> 5) + step_y
            inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
            share_x, share_y = (fixed[0] & 31) / 32, (fixed[1] & 31) / 32
            share = (share_x if step_x else 1 - share_x) * (share_y if step_y else 1 - share_y) * inside
            mixed += pixels[at_y.clip(0, height - 1), at_x.clip(0, width - 1)] * share[..., None]
    return mixed
