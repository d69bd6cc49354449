"""Each measure reacts to what it measures, and to nothing else."""

from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from model.config import preset
from model.crop import crop_affine, crop_image, to_uint8
from model.handoccnet.heatmaps import entropy_share
from model.mano.anatomy import anatomy_of, bone_deviation, joint_limit_excess
from model.mano.layer import ManoLayer, wrist_relative
from model.mano.poses import NAMED_POSES, finger_angles, named_pose, pose_from_angles, random_pose
from model.mano.synthetic import synthetic_hand
from model.predictor import Predictions, Predictor, moved
from model.rotations import axis_angle_to_rotation
from model.weights import random_weights
from pipeline.columns import fixed_lists
from pipeline.quality import crop_outside, measure, reprojection_error, sharpness, shown_part
from pipeline.records import ANNOTATIONS

ANATOMY = anatomy_of(synthetic_hand())


def hands(betas: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Joints (N, 21, 3) of random poses."""
    pose = np.concatenate(
        [np.zeros((len(betas), 3)), random_pose(np.random.default_rng(seed), len(betas))], axis=1
    )
    rotations = axis_angle_to_rotation(torch.from_numpy(pose.reshape(-1, 16, 3)))
    layer = ManoLayer(synthetic_hand(), torch.float64)
    return wrist_relative(layer(rotations, torch.from_numpy(betas)))[1].numpy()


def picture(size: int) -> NDArray[np.uint8]:
    """The same scene at any size: blobs of several widths."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    image = np.full((size, size, 3), 120.0)
    for _ in range(150):
        centre, width, colour = rng.random(2), rng.uniform(0.01, 0.06), rng.uniform(-90, 90, 3)
        near = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / width**2)
        image += near[..., None] * colour
    return image.clip(0, 255).astype(np.uint8)


def table(joints: NDArray[np.float64], pose: NDArray[np.float64], side: str) -> pa.Table:
    """Annotation rows, as far as they are measured."""
    columns = {"joints": joints, "joints_2d": 900 * joints[..., :2] + 3, "hand_pose": pose}
    arrays = {name: fixed_lists(value, ANNOTATIONS.field(name).type) for name, value in columns.items()}
    return pa.table(arrays | {"side": [side] * len(joints)})


def test_a_left_hand_is_measured_as_the_right_one_that_it_mirrors() -> None:
    rng = np.random.default_rng(0)
    joints = hands(rng.normal(size=(10, 10))) + rng.normal(0, 0.003, (10, 21, 3))
    pose = rng.normal(0, 0.4, (10, 15, 3))
    right = measure(table(joints, pose.reshape(10, 45), "right"), ANATOMY)
    left = measure(table(joints * (-1, 1, 1), (pose * (1, -1, -1)).reshape(10, 45), "left"), ANATOMY)
    assert right["joint_limit_excess"].min() > 0
    for name, values in right.items():
        assert left[name] == pytest.approx(values, rel=1e-3, abs=1e-4)
    turned = measure(table(joints[::-1], pose[::-1].reshape(10, 45), "right"), ANATOMY)
    for name, values in right.items():
        assert turned[name][::-1] == pytest.approx(values)


WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_2d_joints_that_disagree_with_the_3d_ones_are_told_whatever_the_resolution() -> None:
    rng = np.random.default_rng(0)
    joints = hands(rng.normal(size=(20, 10)))
    joints_2d = 900 * joints[..., :2] + (320, 200)
    assert reprojection_error(joints, joints_2d).max() < 1e-6
    noise = rng.normal(size=joints_2d.shape)
    errors = [reprojection_error(joints, joints_2d + px * noise) for px in (2, 8, 30)]
    assert (errors[0] < errors[1]).all()
    assert (errors[1] < errors[2]).all()
    larger = reprojection_error(joints, 3 * (joints_2d + 8 * noise) - 1000)
    assert larger == pytest.approx(errors[1])
    mirror = reprojection_error(joints * (-1, 1, 1), (joints_2d + 8 * noise) * (-1, 1))
    assert mirror == pytest.approx(errors[1])
    assert reprojection_error(joints, -joints_2d) == pytest.approx(1)


def test_no_natural_pose_is_over_the_limits_and_a_finger_bent_back_is() -> None:
    natural = random_pose(np.random.default_rng(0), 200).reshape(-1, 15, 3)
    named = np.stack([named_pose(name) for name in NAMED_POSES]).reshape(-1, 15, 3)
    assert joint_limit_excess(np.concatenate([natural, named]), ANATOMY).max() < np.radians(2)
    for degrees, over in ((-45, 40), (140, 30), (89.9, 0)):
        angles = finger_angles({"index": (0, degrees)})[None]
        found = joint_limit_excess(pose_from_angles(angles).reshape(1, 15, 3), ANATOMY)
        assert found == pytest.approx([np.radians(over)], abs=1e-3)


def test_a_joint_at_a_right_angle_that_turns_aside_a_little_is_not_read_as_spread_far() -> None:
    # Flexion of 90 degrees is where spread and twist cannot be told apart.
    angles = finger_angles({"middle": (90, 0, 0)})[None]
    pose = pose_from_angles(angles).reshape(1, 15, 3)
    pose[0, 3] += 0.05
    assert joint_limit_excess(pose, ANATOMY) < 0.06


def test_bones_are_judged_by_what_betas_give_and_not_by_pose() -> None:
    rng = np.random.default_rng(0)
    usual = bone_deviation(hands(rng.normal(size=(200, 10))), ANATOMY)
    assert np.quantile(usual, 0.9) < 3
    same = np.tile(rng.normal(size=(1, 10)), (20, 1))
    posed = bone_deviation(hands(same), ANATOMY)
    assert posed == pytest.approx(np.full(20, posed[0]), abs=1e-6)
    assert bone_deviation(1.5 * hands(same), ANATOMY).min() > 4
    assert bone_deviation(hands(same) * (-1, 1, 1) + 5, ANATOMY) == pytest.approx(posed)


def test_blur_lowers_sharpness_and_size_light_and_mirror_do_not_change_it() -> None:
    sharp = sharpness(picture(256), WHOLE)
    values = [sharpness(cv2.GaussianBlur(picture(256), (0, 0), sigma), WHOLE) for sigma in (4, 10)]
    assert sharp > 2 * values[0] > 4 * values[1]
    assert sharpness(picture(512), WHOLE) == pytest.approx(sharp, rel=0.05)
    assert sharpness((picture(256) // 2 + 40).astype(np.uint8), WHOLE) == pytest.approx(sharp, rel=0.1)
    assert sharpness(picture(256)[:, ::-1], WHOLE) == pytest.approx(sharp, rel=0.02)
    assert sharpness(np.full((64, 64, 3), 7, np.uint8), WHOLE) == 0


@pytest.mark.parametrize("flip", [False, True])
def test_what_lies_outside_the_image_is_counted_and_its_border_is_no_edge(flip: bool) -> None:
    # A slope has no Laplacian.
    image = np.repeat((50 + np.mgrid[:100, :200][1])[..., None], 3, axis=2).astype(np.uint8)
    inside = crop_affine((20, 20, 60, 60), 64, image_width=200, flip=flip)
    across = crop_affine((-30, 40, 120, 120), 64, image_width=200, flip=flip)
    assert crop_outside(shown_part(inside, 200, 100)) == 0
    part = shown_part(across, 200, 100)
    assert crop_outside(part) == pytest.approx(1 - 90 / 120 * 60 / 120, abs=0.02)
    crop = to_uint8(crop_image(image, across))
    assert sharpness(crop, part) < 0.1 * sharpness(crop, WHOLE)


def test_a_flat_heatmap_has_all_the_entropy_and_a_peak_none() -> None:
    flat, peak = torch.full((1, 1, 8, 8), 1 / 64), torch.zeros((1, 1, 8, 8))
    peak[0, 0, 3, 4] = 1
    assert entropy_share(torch.cat([flat, peak], dim=1)).numpy() == pytest.approx(np.array([[1, 0]]))


def test_a_moved_crop_is_what_it_was_elsewhere() -> None:
    image = torch.zeros((1, 1, 100, 100))
    image[0, 0, 30:34, 60:64] = 1
    there = moved(image, 0.1, 0.2, 1.0)
    assert torch.allclose(there[0, 0, 50:54, 70:74], torch.ones(4, 4), atol=1e-3)
    larger = moved(image, 0, 0, 2.0)
    assert larger.sum().item() == pytest.approx(4 * image.sum().item(), rel=0.05)


def looked_at(crops: NDArray[np.uint8], *, tta: bool, error_head: bool = True) -> Predictions:
    weights = random_weights(replace(preset("tiny"), error_head=error_head), 0)
    torch.manual_seed(0)
    for parameter in weights.network.regressor.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    look = Predictor(weights.network, ManoLayer(synthetic_hand()), batch_size=2, tta=tta)
    return look(crops, np.array([False, True, False]))


def test_a_network_with_an_error_head_predicts_its_errors_and_one_without_is_otherwise_the_same() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    there, not_there = looked_at(crops, tta=False), looked_at(crops, tta=False, error_head=False)
    assert there.predicted_error_mm is not None
    assert there.predicted_joint_errors_mm is not None
    assert (there.predicted_error_mm > 0).all()
    assert (there.predicted_joint_errors_mm > 0).all()
    assert there.predicted_joint_errors_mm.shape == (3, 21)
    assert not_there.predicted_error_mm is None
    assert not_there.predicted_joint_errors_mm is None
    assert np.array_equal(there.joints, not_there.joints)


def test_a_second_look_leaves_the_prediction_as_it_is_and_tells_hands_apart_by_it() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    # A crop that is its own mirror image, of one colour, looks the same from both sides.
    crops[2] = 90
    once, twice = looked_at(crops, tta=False), looked_at(crops, tta=True)
    assert once.flip_error_mm is None
    assert np.array_equal(once.joints, twice.joints)
    assert np.array_equal(once.confidence, twice.confidence)
    assert twice.shift_error_mm is not None
    assert (twice.shift_error_mm > 0).all()
    assert twice.flip_error_mm is not None
    assert np.isfinite(twice.flip_error_mm).all()
    apart = np.linalg.norm(once.joints[2] - once.joints[2] * (-1, 1, 1), axis=1).mean()
    assert twice.flip_error_mm[2] == pytest.approx(1000 * apart, rel=1e-4)
