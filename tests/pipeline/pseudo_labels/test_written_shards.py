"""What the shards of pseudo-labels hold: pictures, labels and the account of both."""

import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from model.mano.synthetic import synthetic_hand
from pipeline.pseudo_labels.labels import Belongings, picture_label, region
from pipeline.pseudo_labels.selection import (
    KEPT,
)
from pipeline.pseudo_labels.shards import plan_shards
from pipeline.pseudo_labels.survey import UNREADABLE
from pipeline.stages.decode import decode_image
from tests.pipeline.evaluation.annotated import annotate
from tests.pipeline.pseudo_labels.made import ALL, pseudo_label
from tests.training_shards import changed


def test_whole_pictures_keep_their_bytes_and_their_labels_are_what_was_annotated(
    annotated: Path, tmp_path: Path, truth: Mapping[str, tuple[Any, bytes]]
) -> None:
    made = pseudo_label(annotated, tmp_path / "out")
    assert len(made.labels) == len(truth) == 24
    assert max(len(label["hands"]) for label in made.labels.values()) == 2, "hands of a picture stay together"
    origins = {row["member"]: f"{Path(row['source']).name}#{row['key']}" for row in made.manifest}
    for member, label in made.labels.items():
        true, picture = truth[origins[member]]
        assert made.pictures[member] == picture
        assert label["dataset"] == "pseudo"
        assert label["hand_model"] == synthetic_hand().name
        assert label["camera"] == [300.0, 310.0, 80.5, 79.5]
        for hand, labelled in zip(label["hands"], true["hands"], strict=True):
            assert hand["side"] == labelled["side"]
            for name in ("bbox", "joints_2d"):
                np.testing.assert_allclose(hand[name], labelled[name], atol=2e-3)
            for name in ("global_orient", "hand_pose", "betas"):
                np.testing.assert_allclose(hand["mano"][name], labelled["mano"][name], atol=1e-5)
            np.testing.assert_allclose(hand["root_3d"], [0.01, -0.02, 0.5], atol=1e-6)
            np.testing.assert_allclose(
                np.array(hand["joints_3d"]) - hand["root_3d"],
                np.array(labelled["joints_3d"]) - labelled["root_3d"],
                atol=1e-5,
            )


def test_a_whole_jpeg_keeps_what_a_camera_wrote_behind_it(shards: Path, tmp_path: Path) -> None:
    shard, trailer = next(shards.glob("*.tar")), b"a short film" * 100
    (tmp_path / "data").mkdir()
    with tarfile.open(shard) as archive:
        pictures = [name for name in archive.getnames() if name.endswith(".jpg")]
    changed(shard, tmp_path / "data" / shard.name, dict.fromkeys(pictures, lambda data: data + trailer))
    made = pseudo_label(annotate(tmp_path / "data", tmp_path / "annotated", vertices=False), tmp_path / "out")
    assert len(made.pictures) == len(pictures)
    assert all(picture.endswith(trailer) for picture in made.pictures.values())


def test_in_a_crop_everything_lies_on_the_same_spot_of_the_hand(annotated: Path, tmp_path: Path) -> None:
    whole = pseudo_label(annotated, tmp_path / "whole")
    cropped = pseudo_label(annotated, tmp_path / "crop", frames="crop", factor=1.2)
    smaller = 0
    for member, label in cropped.labels.items():
        before = whole.labels[member]
        origin = np.array(before["camera"][2:]) - label["camera"][2:]
        assert (origin == np.round(origin)).all()
        image, crop = (decode_image(made.pictures[member]) for made in (whole, cropped))
        height, width = crop.shape[:2]
        x, y = origin.astype(int)
        assert np.abs(image[y : y + height, x : x + width].astype(int) - crop).mean() < 4
        smaller += crop.size < image.size
        for hand, other in zip(label["hands"], before["hands"], strict=True):
            np.testing.assert_allclose(np.array(hand["joints_2d"]) + origin, other["joints_2d"], atol=2e-3)
            np.testing.assert_allclose(np.array(hand["bbox"][:2]) + origin, other["bbox"][:2], atol=2e-3)
            assert hand["bbox"][2:] == other["bbox"][2:]
            assert hand["joints_3d"] == other["joints_3d"]
            projected = _project(hand["joints_3d"], label["camera"])
            np.testing.assert_allclose(projected + origin, _project(hand["joints_3d"], before["camera"]))
    assert smaller > 12


def test_an_assumed_camera_is_no_label(annotated: Path) -> None:
    part = next((annotated / "annotations").glob("*.parquet"))
    row = pq.read_table(part).slice(0, 1).to_pylist()[0]
    belongings = Belongings("synthetic-v1", (), "train")
    given = picture_label([row | {"camera_source": "given"}], [1.0], belongings)
    assumed = picture_label([row | {"camera_source": "fov"}], [1.0], belongings)
    assert "camera" in given
    assert "camera" not in assumed
    assert given["hands"][0].keys() - assumed["hands"][0].keys() == {"root_3d"}
    assert "translation" not in assumed["hands"][0]["mano"]
    np.testing.assert_allclose(assumed["hands"][0]["joints_3d"], row["joints"], atol=1e-6)


def _project(joints: Any, camera: Any) -> Any:
    points = np.array(joints)
    return points[:, :2] / points[:, 2:] * camera[:2] + camera[2:]


def test_a_region_holds_all_hands_and_ends_at_the_border() -> None:
    joints = [[39.0 + number, 50.0] for number in range(21)]
    one = {"bbox": [40, 40, 20, 20], "joints_2d": joints}
    assert region([one], 2.0, 640, 480) == (28, 29, 71, 71)
    other = {"bbox": [600, 460, 60, 60], "joints_2d": [[620.0, 470.0]] * 21}
    assert region([one, other], 2.0, 640, 480) == (28, 29, 640, 480)
    outside = {"bbox": [-500, -500, 10, 10], "joints_2d": [[-490.0, -490.0]] * 21}
    left, top, right, bottom = region([outside], 1.0, 640, 480)
    assert right > left
    assert bottom > top


def test_a_picture_that_is_gone_costs_its_hands_and_is_accounted_for(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for path in shards.glob("*.tar"):
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    predictions = annotate(tmp_path / "data", tmp_path / "annotated", vertices=False)
    sorted((tmp_path / "data").glob("*.tar"))[0].unlink()
    surveyed = pseudo_label(predictions, tmp_path / "a", balance=replace(ALL, equal_bits=0))
    fates = surveyed.chosen.by_reason()
    assert fates[UNREADABLE] > 0
    assert fates[KEPT] == surveyed.written.hands
    unseen = pseudo_label(predictions, tmp_path / "b")
    assert unseen.chosen.by_reason()[KEPT] == unseen.chosen.hands
    assert sum(unseen.written.lost.values()) == fates[UNREADABLE]
    assert unseen.written.hands == len(unseen.manifest) == fates[KEPT]


def test_a_shards_name_says_which_pictures_it_holds() -> None:
    assert [shard.unit_id for shard in plan_shards("p", 5, 3, "v")] == [
        "pseudo-00000000-00000003",
        "pseudo-00000003-00000005",
    ]
