"""Augmentation: its distributions, and that labels turn, mirror and hide with the pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from model.augmentation import (
    Augmentation,
    AugmentationRanges,
    Occluder,
    colour_crop,
    draw,
    mirror_points,
    mirror_pose,
    paste,
    turn_points,
    turn_root,
)
from model.crop import crop_affine, joints_to_crop

PARITY = Path(__file__).resolve().parents[2] / ".." / "shared" / "reference" / "parity"


def test_draws_have_the_published_distributions() -> None:
    drawn = _drawn(20_000, AugmentationRanges())
    scale = np.array([one.scale for one in drawn])
    turn = np.array([one.rotation_deg for one in drawn])
    colour = np.array([one.colour for one in drawn])
    # Recorded of the published code in 20 000 draws: parity/data.json, aug_stats_20000.
    assert (scale.min(), scale.max()) == (0.75, 1.25)
    assert np.isin(scale, (0.75, 1.25)).mean() == pytest.approx(0.318, abs=0.015)
    assert scale.mean() == pytest.approx(1.0, abs=0.005)
    assert (turn == 0).mean() == pytest.approx(0.398, abs=0.015)
    assert (turn.min(), turn.max()) == (-60, 60)
    assert colour.min() == pytest.approx(0.8, abs=1e-3)
    assert colour.max() == pytest.approx(1.2, abs=1e-3)
    assert all(one.occluder is None for one in drawn)


def test_the_same_generator_draws_the_same() -> None:
    ranges = AugmentationRanges(paste=1.0)
    for first, second in zip(_drawn(3, ranges), _drawn(3, ranges), strict=True):
        assert (first.scale, first.rotation_deg, first.colour) == (
            second.scale,
            second.rotation_deg,
            second.colour,
        )
        assert first.occluder is not None
        assert second.occluder is not None
        np.testing.assert_array_equal(first.occluder.outline, second.occluder.outline)


@pytest.mark.parametrize("rotation_deg", [-60.0, 25.0])
def test_points_turn_as_the_crop_does(rotation_deg: float) -> None:
    points = np.random.default_rng(0).normal(size=(21, 3))
    affine = crop_affine([-2, -2, 4, 4], 256, image_width=1, rotation_deg=rotation_deg)
    in_crop = joints_to_crop(points[:, :2], affine)
    turned = turn_points(points, rotation_deg)
    np.testing.assert_allclose(turned[:, :2] * 64 + 128, in_crop, atol=1e-4)
    np.testing.assert_array_equal(turned[:, 2], points[:, 2])


@pytest.mark.parametrize("angle", [0.0, 0.4, 3.1, np.pi, 5.0])
def test_a_root_turns_as_the_points_that_it_poses(angle: float) -> None:
    global_orient = angle * np.array([0.6, -0.48, 0.64])
    points = np.random.default_rng(0).normal(size=(21, 3))
    posed = Rotation.from_rotvec(global_orient).apply(points)
    turned = turn_root(global_orient, 35.0)
    np.testing.assert_allclose(
        Rotation.from_rotvec(turned).apply(points), turn_points(posed, 35.0), atol=1e-9
    )
    assert np.linalg.norm(turned) <= np.pi + 1e-12


def test_a_mirrored_pose_poses_the_mirrored_points() -> None:
    random = np.random.default_rng(0)
    pose, points = random.normal(size=3), random.normal(size=(21, 3))
    posed = Rotation.from_rotvec(pose).apply(points)
    mirrored = Rotation.from_rotvec(mirror_pose(pose)).apply(mirror_points(points))
    np.testing.assert_allclose(mirrored, mirror_points(posed), atol=1e-12)
    np.testing.assert_array_equal(mirror_pose(mirror_pose(pose)), pose)


@pytest.mark.skipif(not PARITY.is_dir(), reason="needs the recorded numbers")
@pytest.mark.parametrize("name", ["HO3D_train", "DEX_YCB_train_right", "DEX_YCB_train_left"])
def test_an_augmented_pose_and_its_joints_are_those_of_the_published_loader(name: str) -> None:
    recorded = json.loads((PARITY / "data.json").read_text())
    turn = recorded["aug_used"]["aug"]["rot"]
    plain, turned = (recorded[f"{name}_{kind}"]["targets"] for kind in ("noaug", "aug"))
    joints = turn_points(np.array(plain["joints_coord_cam"]), turn)
    np.testing.assert_allclose(joints, turned["joints_coord_cam"], atol=1e-6)
    pose, expected = (np.array(values["mano_pose"]).reshape(16, 3) for values in (plain, turned))
    np.testing.assert_allclose(turn_root(pose[0], turn), expected[0], atol=1e-6)
    np.testing.assert_array_equal(pose[1:], expected[1:])


def test_colours_are_cut_at_white() -> None:
    crop = np.full((2, 2, 3), 200, np.float32)
    coloured = colour_crop(crop, (1.5, 1.0, 0.5))
    assert coloured.dtype == np.float32
    np.testing.assert_array_equal(coloured, np.broadcast_to([255, 200, 100], (2, 2, 3)))


def test_an_occluder_covers_its_outline_and_hides_the_joints_under_it() -> None:
    square = np.array([[0.25, 0.5], [0.75, 0.5], [0.75, 1.5], [0.25, 1.5]])
    red = np.array([[255.0, 0, 0], [255.0, 0, 0]])
    crop = np.full((64, 64, 3), 7, np.float32)
    joints_2d = np.array([[0.5, 0.75], [0.5, 0.25], [0.1, 0.75], [0.5, 1.2], [-40.0, 40.0]])
    covered = paste(crop, Occluder(square, red, np.zeros(2)), joints_2d)
    assert covered.tolist() == [True, False, False, False, False]
    np.testing.assert_array_equal(crop[40:, 20:44], np.broadcast_to([255, 0, 0], (24, 24, 3)))
    assert (crop[:30] == 7).all()
    assert (crop[:, :14] == 7).all()


@pytest.mark.parametrize("seed", range(5))
def test_drawn_occluders_cover_some_of_a_crop_and_never_all_of_it(seed: int) -> None:
    augmentation = draw(np.random.default_rng(seed), AugmentationRanges(paste=1.0))
    assert augmentation.occluder is not None
    crop = np.full((128, 128, 3), -1, np.float32)
    paste(crop, augmentation.occluder, np.zeros((21, 2)))
    assert 0.005 < (crop >= 0).all(axis=2).mean() < 0.45
    assert crop.max() <= 255


def _drawn(count: int, ranges: AugmentationRanges) -> list[Augmentation]:
    rng = np.random.default_rng(1)
    return [draw(rng, ranges) for _ in range(count)]
