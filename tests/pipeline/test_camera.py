"""Where hands are put: exactness without noise, robustness, and what says nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from model.mano.layer import ManoLayer, wrist_relative
from model.mano.synthetic import synthetic_hand
from model.rotations import axis_angle_to_rotation
from pipeline import camera
from pipeline.camera import NO_CAMERA, NO_JOINTS, UNDETERMINED, place_hands, project
from pipeline.synthesis.hands import HandKit
from pipeline.synthesis.staging import place_hand, random_camera

Floats = NDArray[np.float64]
HANDS, SIZE = 60, 256
CAMERA = np.array([480.0, 485.0, 310.0, 250.0])


class Scene(NamedTuple):
    """Hands of both sides, each before a camera of its own."""

    joints: Floats
    joints_2d: Floats
    weights: Floats
    camera: Floats
    wrists: Floats

    def depth_errors_mm(self, translation: Floats) -> Floats:
        errors: Floats = 1000 * np.abs(translation - self.wrists)[:, 2]
        return errors


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng, kit = np.random.default_rng(0), HandKit(synthetic_hand())
    joints, cameras, wrists = [], [], []
    for number in range(HANDS):
        hand, camera = kit.random_hand(rng, "left" if number % 2 else "right"), random_camera(rng, SIZE)
        joints.append(hand.joints)
        cameras.append(camera)
        wrists.append(place_hand(rng, hand.vertices, camera, SIZE))
    points, camera_N4, wrists_N3 = np.array(joints), np.array(cameras), np.array(wrists)
    pixels = project(points + wrists_N3[:, None], camera_N4)
    return Scene(points, pixels, rng.uniform(0.1, 1, (HANDS, 21)), camera_N4, wrists_N3)


def noisy(scene: Scene, *, noise_px: float = 0.0, wild: int = 0, reach_px: float = SIZE) -> Scene:
    rng = np.random.default_rng(1)
    pixels = scene.joints_2d + rng.normal(0, noise_px, scene.joints_2d.shape)
    for hand in pixels:
        hand[rng.permutation(21)[:wild]] = rng.uniform(-reach_px, reach_px, (wild, 2))
    return scene._replace(joints_2d=pixels)


def placed(scene: Scene) -> Floats:
    found = place_hands(scene.joints, scene.joints_2d, scene.weights, scene.camera)
    assert found.problem == [None] * len(scene.joints)
    return found.translation


def test_without_noise_every_wrist_is_found_exactly(scene: Scene) -> None:
    assert np.abs(placed(scene) - scene.wrists).max() < 1e-12


def test_joints_that_are_wild_or_not_finite_change_nothing_where_the_others_agree(scene: Scene) -> None:
    for reach in (SIZE, 5000):
        assert np.abs(placed(noisy(scene, wild=3, reach_px=reach)) - scene.wrists).max() < 1e-6
    joints, pixels = scene.joints.copy(), scene.joints_2d.copy()
    joints[:, 3], pixels[:, 7, 1], pixels[:, 9] = np.nan, np.inf, -np.inf
    assert np.abs(placed(scene._replace(joints=joints, joints_2d=pixels)) - scene.wrists).max() < 1e-12


def test_two_pixels_of_noise_cost_a_percent_of_the_depth_and_three_wild_joints_no_more(scene: Scene) -> None:
    for case in (noisy(scene, noise_px=2), noisy(scene, noise_px=2, wild=3)):
        share = case.depth_errors_mm(placed(case)) / (1000 * scene.wrists[:, 2])
        assert np.median(share) < 0.012
        assert share.max() < 0.1


def test_imprecise_3d_joints_push_a_hand_away_by_little_more_than_half_of_what_pixel_distances_do(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(4).normal(0, 0.01, scene.joints.shape)
    case = scene._replace(joints=scene.joints + noise)
    too_far = [np.median((placed(case) - scene.wrists)[:, 2])]
    monkeypatch.setattr(camera, "SIZE_STEPS", 0)
    too_far.append(np.median((placed(case) - scene.wrists)[:, 2]))
    assert 0 < too_far[0] < 0.7 * too_far[1]


def test_a_joint_without_weight_counts_for_nothing(scene: Scene) -> None:
    pixels, weights = scene.joints_2d.copy(), scene.weights.copy()
    pixels[:, ::2] += 40.0
    weights[:, ::2] = 0.0
    found = placed(scene._replace(joints_2d=pixels, weights=weights))
    assert np.abs(found - scene.wrists).max() < 1e-9


def test_a_hand_is_placed_alike_alone_and_in_any_company(scene: Scene) -> None:
    case = noisy(scene, noise_px=3, wild=2)
    together, order = placed(case), np.random.default_rng(2).permutation(HANDS)
    shuffled = placed(Scene(*(values[order] for values in case)))
    alone = np.concatenate([placed(Scene(*(values[row : row + 1] for values in case))) for row in range(9)])
    assert np.abs(shuffled - together[order]).max() < 1e-12
    assert np.abs(alone - together[:9]).max() < 1e-12


def test_the_mirrored_scene_has_the_mirrored_wrist(scene: Scene) -> None:
    case, width = noisy(scene, noise_px=2), 640
    flip = np.array([-1.0, 1.0, 1.0])
    pixels, camera = case.joints_2d.copy(), case.camera.copy()
    pixels[..., 0] = width - 1 - pixels[..., 0]
    camera[:, 2] = width - 1 - camera[:, 2]
    mirrored = placed(case._replace(joints=case.joints * flip, joints_2d=pixels, camera=camera))
    assert np.abs(mirrored - placed(case) * flip).max() < 1e-9


def test_an_image_that_is_enlarged_leaves_the_hand_where_it_is(scene: Scene) -> None:
    case = noisy(scene, noise_px=2)
    enlarged = case._replace(joints_2d=4 * case.joints_2d + 1.5, camera=4 * case.camera + [0, 0, 1.5, 1.5])
    assert np.abs(placed(enlarged) - placed(case)).max() < 1e-6


def _nothing_weighs(scene: Scene) -> Scene:
    return scene._replace(weights=0 * scene.weights)


def _nothing_is_finite(scene: Scene) -> Scene:
    return scene._replace(joints_2d=scene.joints_2d * np.nan)


def _weights_are_nonsense(scene: Scene) -> Scene:
    return scene._replace(weights=np.where(np.arange(21) % 2, np.nan, -1.0) * np.ones_like(scene.weights))


def _all_on_one_pixel(scene: Scene) -> Scene:
    return scene._replace(joints_2d=scene.joints_2d[:, :1].repeat(21, axis=1))


def _all_in_one_place(scene: Scene) -> Scene:
    return scene._replace(joints=0 * scene.joints)


def _one_joint_only(scene: Scene) -> Scene:
    return scene._replace(weights=scene.weights * (np.arange(21) == 5))


def _no_camera(scene: Scene) -> Scene:
    return scene._replace(camera=scene.camera * np.nan)


def _no_focal_length(scene: Scene) -> Scene:
    return scene._replace(camera=scene.camera * [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_nothing_weighs, NO_JOINTS),
        (_nothing_is_finite, NO_JOINTS),
        (_weights_are_nonsense, NO_JOINTS),
        (_all_on_one_pixel, UNDETERMINED),
        (_all_in_one_place, UNDETERMINED),
        (_one_joint_only, UNDETERMINED),
        (_no_camera, NO_CAMERA),
        (_no_focal_length, NO_CAMERA),
    ],
)
def test_a_hand_that_says_nothing_has_no_place_and_costs_its_neighbours_nothing(
    scene: Scene, spoil: Callable[[Scene], Scene], reason: str
) -> None:
    spoiled = spoil(scene)
    odd = np.arange(HANDS) % 2 == 1
    rows = [
        np.where(odd.reshape(-1, *[1] * (good.ndim - 1)), bad, good)
        for good, bad in zip(scene, spoiled, strict=True)
    ]
    mixed = Scene(*rows)
    found = place_hands(mixed.joints, mixed.joints_2d, mixed.weights, mixed.camera)
    assert found.problem == [reason if bad else None for bad in odd]
    assert np.isnan(found.translation[odd]).all()
    assert np.abs(found.translation - scene.wrists)[~odd].max() < 1e-12


def test_smplx_puts_the_hand_where_the_translation_does_for_transl_translation_less_the_rest_wrist() -> None:
    rng = np.random.default_rng(4)
    layer = ManoLayer(synthetic_hand(), torch.float64)
    pose, betas = torch.from_numpy(rng.normal(0, 0.4, (5, 16, 3))), torch.from_numpy(rng.normal(size=(5, 10)))
    transl = rng.uniform((-0.2, -0.2, 0.4), (0.2, 0.2, 1.5), (5, 3))
    out = layer(axis_angle_to_rotation(pose), betas)
    _, joints = wrist_relative(out)
    camera = np.tile(CAMERA, (5, 1))
    # The layer's own frame is smplx's, whose transl moves all of it; its wrist is at rest wherever the hand turns.
    pixels = project(out.joints_B21x3.numpy() + transl[:, None], camera)
    translation = place_hands(joints.numpy(), pixels, np.ones((5, 21)), camera).translation
    rest_wrist = (
        layer(torch.eye(3, dtype=torch.float64).expand(5, 16, 3, 3), betas).joints_B21x3[:, 0].numpy()
    )
    assert np.abs(translation - rest_wrist - transl).max() < 1e-10
    stored, _ = wrist_relative(out)
    there = out.vertices_BV3.numpy() + transl[:, None]
    assert np.abs(stored.numpy() + translation[:, None] - there).max() < 1e-10


def test_no_hand_at_all_is_no_hand_placed() -> None:
    found = place_hands(np.zeros((0, 21, 3)), np.zeros((0, 21, 2)), np.zeros((0, 21)), np.zeros((0, 4)))
    assert found.translation.shape == (0, 3)
    assert found.problem == []


def test_whatever_the_joints_say_the_hand_is_before_the_camera() -> None:
    rng = np.random.default_rng(3)
    joints, pixels = rng.normal(0, 0.1, (200, 21, 3)), rng.uniform(0, SIZE, (200, 21, 2))
    found = place_hands(joints, pixels, np.ones((200, 21)), np.tile([300.0, 300.0, 128.0, 128.0], (200, 1)))
    there = [problem is None for problem in found.problem]
    assert (joints + found.translation[:, None])[there][..., 2].min() > 0
    assert any(there)


def test_it_explains_the_recorded_fits_better_than_the_published_fit_does(shared: Path) -> None:
    """Against HandOccNet's demo_fitting.py: L-BFGS on the sum of |pixels| with a prior on the depth."""
    recorded = json.loads((shared / "reference" / "parity" / "fitting.json").read_text())
    joints = np.array(recorded.pop("joint_cam"))
    assert len(recorded) == 4
    for name, fit in recorded.items():
        camera, pixels = np.array([fit["focal"]] * 2 + fit["center"]), np.array(fit["joint_img"])
        ours = place_hands(joints[None], pixels[None], np.ones((1, 21)), camera[None]).translation[0]
        theirs, true = np.array(fit["result_translation"]), np.array(fit["true_t"])

        def distances(at: Floats, camera: Floats = camera, pixels: Floats = pixels) -> Floats:
            return np.asarray(np.linalg.norm(project(joints + at, camera) - pixels, axis=1))

        # What the last steps minimise: Geman and McClure's function, at four times the median distance.
        limit = max(4 * float(np.sort(distances(ours))[10]), 0.05)

        def objective(at: Floats, limit: float = limit) -> float:
            off = distances(at) ** 2
            return float((off / (off + limit**2)).sum())

        best = minimize(objective, true, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
        # The depth at which the hand is as large as it is seen leaves the best by so much.
        assert objective(ours) <= 1.01 * best.fun + 1e-6, name
        assert objective(ours) <= objective(theirs) + 1e-6, name
        # Theirs is the sum of |pixels| and a pull to the depth that was guessed.
        assert np.abs(project(joints + ours, camera) - pixels).sum() <= 1.02 * fit["objective_l1"] + 1e-3, (
            name
        )
        assert np.linalg.norm(ours - true) <= np.linalg.norm(theirs - true) + 1e-7, name
