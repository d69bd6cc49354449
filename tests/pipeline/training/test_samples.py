"""From a shard's picture and label to what a network learns from them."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.augmentation import AugmentationRanges
from model.mano.layer import ManoLayer, wrist_relative
from model.mano.synthetic import synthetic_hand
from model.rotations import axis_angle_to_rotation
from pipeline.errors import DataError
from pipeline.inputs import find_inputs
from pipeline.records import Sample, Unit
from pipeline.sources import webdataset
from pipeline.stages.decode import decode_image
from pipeline.training.labels import fingertip_vertices_of, hand_count, hand_label, hand_model_of
from pipeline.training.samples import TrainingSamples, concatenate, training_sample

PARITY = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference" / "parity"
RANGES = AugmentationRanges(paste=0.5)
GREY = np.full((428, 640, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def pictures(shards: Path) -> list[Sample]:
    return _read(sorted(shards.glob("*.tar"))[0])


def test_a_shards_labels_reach_the_training_with_everything_that_they_say(pictures: list[Sample]) -> None:
    for sample in pictures:
        assert sample.label["hands"] is sample.hands
        assert hand_count(sample.key, sample.label) >= 1
        assert hand_model_of(sample.key, sample.label) == synthetic_hand().name
        assert fingertip_vertices_of(sample.key, sample.label) == synthetic_hand().fingertip_vertices
    assert {hand["side"] for sample in pictures for hand in sample.hands} == {"left", "right"}


@pytest.mark.parametrize("augmented", [False, True])
def test_the_labelled_pose_puts_the_hand_models_joints_where_the_labelled_ones_are(
    pictures: list[Sample], augmented: bool
) -> None:
    samples = _samples(pictures, np.random.default_rng(0) if augmented else None)
    rotations = axis_angle_to_rotation(torch.from_numpy(samples.pose))
    posed = ManoLayer(synthetic_hand())(rotations, torch.from_numpy(samples.betas))
    np.testing.assert_allclose(wrist_relative(posed)[1].numpy(), samples.joints_3d, atol=1e-5)


def test_a_crop_has_at_its_joints_what_the_picture_has_there(pictures: list[Sample]) -> None:
    for sample in pictures:
        height, width = decode_image(_bytes(sample)).shape[:2]
        ramp = np.empty((height, width, 3), np.uint8)
        ramp[:] = np.linspace(0, 255, width)[None, :, None]
        one = training_sample(
            sample.key, ramp, sample.label, 0, crop_size=128, rng=None, ranges=AugmentationRanges()
        )
        joints = np.array(sample.hands[0]["joints_2d"])
        at = np.rint(one.joints_2d[0] * 128).astype(int)
        seen = ((at >= 2) & (at < 126)).all(axis=1) & (joints > 3).all(axis=1)
        seen &= (joints < width - 4).all(axis=1)
        shown = one.crops[0, at[seen, 1], at[seen, 0], 0].astype(float)
        np.testing.assert_allclose(shown, joints[seen, 0] * 255 / (width - 1), atol=3)


def test_without_a_generator_a_sample_is_always_the_same_and_with_one_it_varies(
    pictures: list[Sample],
) -> None:
    plain, again = _samples(pictures, None), _samples(pictures, None)
    np.testing.assert_array_equal(plain.crops, again.crops)
    first, second = (_samples(pictures, np.random.default_rng(seed)) for seed in (1, 1))
    np.testing.assert_array_equal(first.crops, second.crops)
    assert (first.crops != plain.crops).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(first.betas, plain.betas)


def test_a_pasted_occluder_hides_joints_and_shows_none(pictures: list[Sample]) -> None:
    plain = _samples(pictures, None)
    pasted = _samples(pictures, np.random.default_rng(0), AugmentationRanges(paste=1.0))
    assert (pasted.visible <= plain.visible).all()
    assert (pasted.visible < plain.visible).any()


@pytest.mark.skipif(not PARITY.is_dir(), reason="needs the recorded numbers")
@pytest.mark.parametrize(
    ("name", "index"), [("HO3D_train", 0), ("DEX_YCB_train_right", 0), ("DEX_YCB_train_left", 1)]
)
def test_targets_are_those_of_the_published_loader(name: str, index: int) -> None:
    recorded = json.loads((PARITY / "data.json").read_text())
    dataset = "HO3D_train" if name == "HO3D_train" else "DEX_YCB"
    annotation = recorded["annotations"][dataset]["annotations"][index]
    joints, camera = np.array(annotation["joints_coord_cam"]), annotation["cam_param"]
    projected = joints[:, :2] / joints[:, 2:] * camera["focal"] + camera["princpt"]
    pose = annotation["mano_param"]["pose"]
    hand = {
        "bbox": [0, 0, 10, 10],
        "side": "left" if name.endswith("left") else "right",
        "joints_3d": joints.tolist(),
        "joints_2d": annotation.get("joints_img", projected.tolist()),
        "mano": {
            "global_orient": pose[:3],
            "hand_pose": pose[3:],
            "betas": annotation["mano_param"]["shape"],
        },
    }
    one = training_sample(name, GREY, {"hands": [hand]}, 0, crop_size=256, rng=None, ranges=RANGES)
    expected = recorded[f"{name}_noaug"]["targets"]
    np.testing.assert_allclose(one.joints_2d[0], expected["joints_img"], atol=1e-6)
    np.testing.assert_allclose(one.joints_3d[0], expected["joints_coord_cam"], atol=1e-6)
    np.testing.assert_allclose(one.pose[0].ravel(), expected["mano_pose"], atol=1e-6)
    np.testing.assert_allclose(one.betas[0], expected["mano_shape"], atol=1e-6)


def test_what_a_label_leaves_out_is_masked() -> None:
    label = {"hands": [{"bbox": [200, 150, 100, 90], "side": "left", "weight": 0.25}]}
    one = training_sample("k", GREY, label, 0, crop_size=64, rng=np.random.default_rng(0), ranges=RANGES)
    assert not one.has_mano.any()
    assert not one.has_joints_3d.any()
    assert not one.joints_2d_valid.any()
    assert not one.joints_2d.any()
    assert (one.visible == -1).all()
    assert one.weight.tolist() == [0.25]
    assert one.left.tolist() == [True]
    assert one.crops.shape == (1, 64, 64, 3)


def test_samples_come_back_from_a_row_and_from_their_parts(pictures: list[Sample]) -> None:
    samples = _samples(pictures, None)
    _assert_equal(TrainingSamples.from_row(samples.to_row()), samples)
    _assert_equal(concatenate([samples[:4], samples[4:]]), samples)
    backwards = samples.select(range(len(samples))[::-1])
    assert backwards.keys == samples.keys[::-1]
    _assert_equal(backwards[::-1], samples)


NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("side", "both", "side must be left or right, it is 'both'"),
        ("side", None, "side must be left or right, it is None"),
        ("bbox", None, "bbox is missing"),
        ("bbox", [1, 2, 3], r"bbox must be 4 numbers, it is \[1, 2, 3\]"),
        ("joints_2d", [[1.0, 2.0]] * 20, "joints_2d must be 21x2 numbers"),
        ("joints_2d", [[1.0, 2.0]] * 20 + [[1.0]], "joints_2d must be 21x2 numbers"),
        ("joints_2d", [["1", "2"]] * 21, "joints_2d must be 21x2 numbers"),
        ("joints_3d", [[1.0, 2.0, NAN]] * 21, "joints_3d holds a number that is not finite"),
        ("joints_3d", [[1.0, 2.0, 1e300]] * 21, "joints_3d holds a number that is not finite"),
        ("mano", [0.0] * 58, "mano is a list, not an object"),
        ("mano", {"global_orient": [0, 0, 0], "betas": [0.0] * 10}, "mano.hand_pose is missing"),
        (
            "mano",
            {"global_orient": [0, 0, 0], "hand_pose": [0.0] * 48, "betas": [0.0] * 10},
            "mano.hand_pose must be 45 numbers",
        ),
        ("visible", [2] * 21, "visible must be 21 times 0 or 1"),
        ("visible", [0.5] * 21, "visible must be 21 numbers"),
        ("weight", -1, "weight -1.0 is negative"),
        ("weight", "much", "weight must be a number"),
        ("weight", 10**400, "weight must be a number"),
    ],
)
def test_a_wrong_label_is_refused_by_key_hand_and_field(field: str, value: object, said: str) -> None:
    right = {"bbox": [200, 150, 100, 90], "side": "right"}
    label = {"hands": [right, {**right, field: value}]}
    with pytest.raises(DataError, match=f"^bad label: s/17, hand 1: {said}"):
        hand_label("s/17", label, 1)
    assert not hand_label("s/17", label, 0).left


@pytest.mark.parametrize("label", [None, [], {}, {"hands": None}, {"hands": {"bbox": [0, 0, 1, 1]}}])
def test_a_label_without_a_list_of_hands_is_refused(label: object) -> None:
    with pytest.raises(DataError, match=r"^bad label: s/17: `hands` must be a list"):
        hand_count("s/17", label)


def test_a_label_of_an_unreadable_hand_model_is_refused() -> None:
    assert hand_model_of("k", {"hands": []}) is None
    assert fingertip_vertices_of("k", {"hands": []}) is None
    with pytest.raises(DataError, match="hand_model must be a name"):
        hand_model_of("k", {"hand_model": 7})
    with pytest.raises(DataError, match="fingertip_vertices must be five vertices"):
        fingertip_vertices_of("k", {"fingertip_vertices": [1, 2, 3, 4, 778]})


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [-200, 150, 100, 90]},
        {"bbox": [200, 150, 0, 90]},
        {"joints_2d": [[300.0, 200.0]] * 21},
        {"joints_2d": [[-300.0 - i, 200.0 + i] for i in range(21)]},
    ],
)
def test_a_hand_outside_of_its_picture_is_refused(change: dict[str, Any]) -> None:
    label = {"hands": [{"bbox": [200, 150, 100, 90], "side": "right", **change}]}
    with pytest.raises(DataError, match=r"^box outside: k, hand 0: .* has no area in the 640x428 image"):
        training_sample("k", GREY, label, 0, crop_size=64, rng=None, ranges=RANGES)


def test_a_broken_picture_is_refused(pictures: list[Sample]) -> None:
    sample = pictures[0]
    with pytest.raises(DataError, match="unreadable image"):
        training_sample("k", _bytes(sample)[:200], sample.label, 0, crop_size=64, rng=None, ranges=RANGES)


def test_reading_a_sample_leaves_its_label_as_it_was(pictures: list[Sample]) -> None:
    before = copy.deepcopy(pictures[0].label)
    _samples(pictures[:1], np.random.default_rng(0))
    assert pictures[0].label == before


def _read(shard: Path) -> list[Sample]:
    (one,), _ = find_inputs([str(shard)])
    extent = webdataset.probe(one)
    unit = Unit(
        "unit",
        "webdataset",
        one.uri,
        first=0,
        last=len(extent.keys),
        size=one.files[0].size,
        version=one.version,
        length=one.files[0].size,
    )
    return list(webdataset.read(unit, extent.keys))


def _bytes(sample: Sample) -> bytes:
    assert isinstance(sample.image, bytes)
    return sample.image


def _samples(
    pictures: Sequence[Sample], rng: np.random.Generator | None, ranges: AugmentationRanges = RANGES
) -> TrainingSamples:
    return concatenate(
        [
            training_sample(
                sample.key, _bytes(sample), sample.label, index, crop_size=64, rng=rng, ranges=ranges
            )
            for sample in pictures
            for index in range(hand_count(sample.key, sample.label))
        ]
    )


def _assert_equal(first: TrainingSamples, second: TrainingSamples) -> None:
    rows: list[dict[str, NDArray[Any]]] = [first.to_row(), second.to_row()]
    assert set(rows[0]) == set(rows[1])
    for name, value in rows[0].items():
        np.testing.assert_array_equal(value, rows[1][name], err_msg=name)
