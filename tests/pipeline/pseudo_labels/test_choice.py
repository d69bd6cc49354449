"""Which hands become pseudo-labels: sure enough, no near-duplicates, no more than their share."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.pseudo_labels import clusters, selection
from pipeline.pseudo_labels.near_duplicates import Motion, Walk
from pipeline.pseudo_labels.picture_hash import first_of_equal, perceptual_hash
from pipeline.pseudo_labels.selection import (
    EQUAL,
    KEPT,
    OF_POSE,
    OF_SOURCE,
    stored,
)
from pipeline.pseudo_labels.survey import UNSURE
from pipeline.pseudo_labels.thresholds import thresholds
from pipeline.sinks.parts import part_uri
from pipeline.stages.decode import decode_image
from tests.pipeline.evaluation.annotated import annotate
from tests.pipeline.pseudo_labels.made import ALL, parts_of, pseudo_label


def test_the_last_rule_that_applies_says_how_sure_a_hand_must_be() -> None:
    limits = thresholds(0.5, ("left:*=0.6", "*/night/*=0.8", "right:*.mp4=0.1"), None)
    assert limits.confidence("s3://b/day/a.tar", "1", "right") == 0.5
    assert limits.confidence("s3://b/day/a.tar", "1", "left") == 0.6
    assert limits.confidence("s3://b/night/a.mp4", "a.mp4", "left") == 0.8
    assert limits.confidence("s3://b/night/a.mp4", "a.mp4", "right") == 0.1
    assert limits.confidence("file:///photos", "night/1.jpg", "right") == 0.8, "a picture in a folder"
    accented = thresholds(0.5, ("*/été/*=0.9",), None)
    assert accented.confidence("file:///%C3%A9t%C3%A9/a.mp4", "a.mp4", "left") == 0.9


@pytest.mark.parametrize("rule", ["left", "=0.5", "left:=0.5", "*=2", "*=high"])
def test_a_rule_of_another_form_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"must be \[SIDE:\]GLOB=X"):
        thresholds(0.5, (rule,), None)


def test_a_hand_that_hardly_moved_is_dropped_and_one_that_did_is_kept() -> None:
    walk = Walk(Motion(joints_mm=5, box=0.1))
    joints, box = np.random.default_rng(0).normal(0, 0.05, (21, 3)), np.array([50.0, 60, 100, 80])
    assert walk.keeps("right", joints, box)
    assert walk.keeps("left", joints, box), "the other hand is another hand"
    assert not walk.keeps("right", joints + 0.001, box + np.array([3, 0, 0, 0]))
    assert walk.keeps("right", joints, box + np.array([30, 0, 0, 0])), "its box moved"
    assert walk.keeps("right", joints + 0.02, box), "its pose changed"
    assert not walk.keeps("right", joints + 0.0205, box), "compared with what was kept last"
    assert all(Walk(Motion(0, 0.1)).keeps("left", joints, box) for _ in range(3))


def test_a_crowd_that_stands_still_is_kept_once() -> None:
    walk, rng = Walk(Motion(joints_mm=5, box=0.1)), np.random.default_rng(0)
    crowd = [(rng.normal(0, 0.05, (21, 3)), np.array([200.0 * place, 60, 100, 80])) for place in range(20)]
    for picture in range(3):
        walk.next_picture()
        kept = [walk.keeps("right", *hand) for hand in crowd]
        assert all(kept) if picture == 0 else not any(kept)
        crowd[3] = (crowd[3][0] + 0.02, crowd[3][1])
        walk.next_picture()
        assert [walk.keeps("right", *hand) for hand in crowd] == [place == 3 for place in range(20)]


def test_what_equals_only_a_dropped_picture_stays() -> None:
    chain = [(0, 0), (1 | 1 << 16 | 1 << 32, 0), (1 | 1 << 16 | 1 << 32 | 1 << 48, 0)]
    assert first_of_equal(np.array(chain, np.uint64), 3).tolist() == [True, False, True]


def test_copies_of_a_picture_are_known_and_other_pictures_are_told_apart(
    truth: Mapping[str, tuple[Any, bytes]],
) -> None:
    pictures = [decode_image(data) for _, data in truth.values()]
    copies = [cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA) for picture in pictures]
    copies = [cv2.imdecode(cv2.imencode(".jpg", copy, [1, 70])[1], -1) for copy in copies]
    hashes = np.array([[perceptual_hash(picture)] * 2 for picture in (*pictures, *copies)], np.uint64)
    assert first_of_equal(hashes[:24], 3).all()
    found = ~first_of_equal(hashes, 3)[24:]
    assert found.mean() > 0.5
    assert (~first_of_equal(hashes, 0)[24:]).sum() <= found.sum()


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_equal_hashes_are_those_that_a_comparison_of_all_pairs_finds(bits: int) -> None:
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**63, (40, 2), np.uint64)
    copies = hashes[rng.integers(40, size=120)]
    for copy in copies:
        for bit in rng.integers(128, size=rng.integers(6)):
            copy[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    hashes = np.concatenate([hashes, copies])
    stays: list[int] = []
    for number, one in enumerate(hashes):
        if all(np.bitwise_count(hashes[other] ^ one).sum() > bits for other in stays):
            stays.append(number)
    assert np.flatnonzero(first_of_equal(hashes, bits)).tolist() == stays


def test_poses_fall_into_their_clusters_and_left_hands_into_those_of_right_ones() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(0, 1, (5, 45)).astype(np.float32)
    member = rng.integers(5, size=200)
    right = kinds[member] + rng.normal(0, 0.01, (200, 45)).astype(np.float32)
    is_left = rng.random(200) < 0.5
    stored = clusters.as_right(right, is_left)  # mirroring undoes itself
    poses = clusters.as_right(stored, is_left)
    centres = clusters.fit(poses, 5, seed=1)
    found = clusters.assign(poses, centres)
    assert all(len(set(found[member == kind])) == 1 for kind in range(5))
    assert len(set(found)) == 5
    np.testing.assert_array_equal(centres, clusters.fit(poses, 5, seed=1))
    assert len(clusters.fit(np.repeat(poses[:2], 9, axis=0), 5, seed=1)) == 2


def test_every_hand_is_kept_or_has_its_reason_and_the_surest_are_kept(
    annotated: Path, tmp_path: Path
) -> None:
    made = pseudo_label(annotated, tmp_path / "out", least=0.4, rules=("left:*=0.7",))
    rows = [
        row
        for unit in parts_of(annotated)
        for row in pq.read_table(part_uri(str(annotated), "annotations", unit)).to_pylist()
    ]
    sure = {
        row["instance_id"] for row in rows if row["confidence"] >= (0.7 if row["side"] == "left" else 0.4)
    }
    assert {row["instance_id"] for row in made.manifest} == sure
    fates = made.chosen.by_reason()
    assert sum(fates.values()) == made.chosen.hands == len(rows)
    assert (fates[KEPT], fates[UNSURE]) == (len(sure), len(rows) - len(sure))
    assert made.written.hands == len(sure) == sum(len(label["hands"]) for label in made.labels.values())
    for row in made.manifest:
        label = made.labels[row["member"]]
        assert label["sequence"] == row["source"]
        hand = label["hands"][row["hand"]]
        assert hand["side"] == row["side"]
        assert hand["weight"] == pytest.approx(row["confidence"], abs=1e-4)


def test_balance_takes_no_more_than_its_shares_and_the_same_every_time(
    annotated: Path, tmp_path: Path
) -> None:
    balance = replace(ALL, per_source=9, clusters=4, per_cluster=3, seed=5)
    made = pseudo_label(annotated, tmp_path / "a", balance=balance)
    again = pseudo_label(annotated, tmp_path / "b", balance=balance)
    other = pseudo_label(annotated, tmp_path / "c", balance=replace(balance, seed=6))
    fates = made.chosen.by_reason()
    assert fates[KEPT] <= 12
    assert fates[OF_SOURCE] == made.chosen.hands - 18
    assert fates[OF_POSE] == 18 - fates[KEPT]
    assert all(taken <= 3 for _, taken in made.chosen.poses)
    kinds = [row["pose_cluster"] for row in made.manifest]
    assert max(np.bincount(kinds)) <= 3
    for path in (tmp_path / "a").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert made.manifest == again.manifest != other.manifest


def test_pictures_that_come_twice_are_taken_once(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    for path in shards.glob("*.tar"):
        for name in ("a", "b"):
            (tmp_path / "twice" / f"{name}-{path.name}").write_bytes(path.read_bytes())
    predictions = annotate(tmp_path / "twice", tmp_path / "annotated", vertices=False)
    made = pseudo_label(predictions, tmp_path / "out", balance=replace(ALL, equal_bits=3))
    fates = made.chosen.by_reason()
    assert fates[KEPT] == fates[EQUAL] == made.chosen.hands / 2
    assert {Path(row["source"]).name[0] for row in made.manifest} == {"a"}


def test_the_selections_account_survives_its_file(annotated: Path, tmp_path: Path) -> None:
    made = pseudo_label(annotated, tmp_path / "out", least=0.5)
    assert stored(str(tmp_path / "out"), "another") is None
    again = stored(str(tmp_path / "out"), "f")
    assert again is not None
    assert again.counts == made.chosen.counts
    assert again.by_reason() == made.chosen.by_reason()
    assert sum(map(sum, again.histograms.values())) == again.hands


def test_a_selection_of_several_files_is_read_as_one_of_a_single_file(
    annotated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = pseudo_label(annotated, tmp_path / "single")
    monkeypatch.setattr(selection, "SHARDS_A_FILE", 2)
    several = pseudo_label(annotated, tmp_path / "several")
    assert len(list((tmp_path / "several" / "selection").iterdir())) == (several.chosen.shards + 1) // 2 > 1
    assert several.labels == single.labels
    (tmp_path / "several" / "selection" / "mine.parquet").touch()
    selection.forget_selection(str(tmp_path / "several"))
    assert [path.name for path in (tmp_path / "several").glob("selection*/*")] == ["mine.parquet"]
    assert stored(str(tmp_path / "several"), "f") is None


def test_nothing_is_kept_of_no_hands(annotated: Path, tmp_path: Path) -> None:
    made = pseudo_label(
        annotated, tmp_path / "out", least=1.0, balance=replace(ALL, per_cluster=2, equal_bits=3)
    )
    assert made.manifest == []
    assert not list((tmp_path / "out").glob("*.tar"))
