"""Windows of training samples, read from real shards and from damaged ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.augmentation import AugmentationRanges
from model.mano.synthetic import synthetic_hand
from pipeline.records import Unit
from pipeline.sources import webdataset
from pipeline.training.order import Order
from pipeline.training.samples import TrainingSamples
from pipeline.training.windows import ReadWindow, TrainingDataError, WindowReader
from tests.training_shards import Change, broken, changed, hand, label, segments

HAND = synthetic_hand().name
RANGES = AugmentationRanges(paste=0.5)


def reader(units: Sequence[Unit], **options: Any) -> WindowReader:
    return WindowReader(units, 64, 7, **{"ranges": RANGES, "hand_model": HAND} | options)


def order(units: Sequence[Unit], lanes: int = 2) -> Order:
    sizes = [unit.last - unit.first for unit in units]
    return Order(sizes, lanes=lanes, micro_batch=3, seed=7, window=6)


def one_window(shard: Path, **options: Any) -> ReadWindow:
    """All samples of a folder's only shard."""
    units = segments(shard.parent)
    whole = Order([units[0].last], lanes=1, micro_batch=4, seed=0, window=100)
    return reader(units, **options)(next(whole.windows(0, 0)))


def same(first: TrainingSamples, second: TrainingSamples) -> bool:
    rows = first.to_row(), second.to_row()
    return all(np.array_equal(rows[0][name], rows[1][name]) for name in rows[0])


def test_a_run_resumed_in_an_epoch_sees_the_very_same_micro_batches(shards: Path) -> None:
    units = segments(shards, 5)
    plan, read = order(units), reader(units)
    for lane in range(plan.lanes):
        whole = [read(window).samples for window in plan.windows(1, lane)]
        steps = [part[i : i + 3] for part in whole for i in range(0, len(part), 3)]
        assert len(steps) == plan.steps
        left = [(read(window).samples, window.skip) for window in plan.windows(1, lane, first_step=3)]
        resumed = [part[i : i + 3] for part, skip in left for i in range(skip, len(part), 3)]
        assert len(resumed) == plan.steps - 3
        assert all(same(first, second) for first, second in zip(steps[3:], resumed, strict=True))


def test_every_epoch_draws_other_crops_of_the_same_pictures(shards: Path) -> None:
    units = segments(shards, 24)
    plan, read = replace(order(units, lanes=1), window=24), reader(units)
    first, second = (read(next(plan.windows(epoch, 0))).samples for epoch in (0, 1))
    assert sorted(first.keys) == sorted(second.keys)
    assert first.keys != second.keys
    again = {key: first.crops[index] for index, key in enumerate(first.keys)}
    assert not any(np.array_equal(again[key], second.crops[i]) for i, key in enumerate(second.keys))


def test_validation_takes_every_hand_in_order_and_unturned(shards: Path) -> None:
    units = segments(shards, 24)
    plan = replace(order(units, lanes=1), window=24)
    window = next(plan.windows(0, 0))
    read = reader(units, ranges=None)(window).samples
    assert same(read, replace(reader(units, ranges=None), seed=8)(window).samples)
    taken = list(zip(read.keys, read.hand_index, strict=True))
    in_file = [
        (sample.key, number)
        for piece in window.pieces
        for sample in webdataset.read_as_named(units[piece.segment])
        for number in range(len(sample.label["hands"]))
    ]
    assert taken == in_file
    assert len(taken) > len(set(read.keys)), "the shards have pictures of two hands"


def test_a_picture_that_cannot_be_used_has_another_in_its_place_and_is_named(
    shards: Path, tmp_path: Path
) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    shard = changed(good, tmp_path / "s.tar", {"00000002.jpg": broken})
    read = one_window(shard)
    assert len(read.samples) == 12
    assert "00000002" not in read.samples.keys
    assert set(read.samples.keys) == {f"{index:08d}" for index in range(12) if index != 2}
    assert len(read.skipped) == 1
    assert read.skipped[0].startswith(f"{shard.as_uri()}: 00000002: unreadable image")
    again = ReadWindow.from_row(read.to_row())
    assert again.skipped == read.skipped
    assert same(again.samples, read.samples)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (hand("joints_2d", [[0, 0]] * 20), "00000003, hand 0: joints_2d must be 21x2 numbers"),
        (hand("side", "both"), "00000003, hand 0: side must be left or right, it is 'both'"),
    ],
)
def test_a_label_that_training_cannot_take_is_passed_over_by_name(
    shards: Path, tmp_path: Path, change: Change, said: str
) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    shard = changed(good, tmp_path / "s.tar", {"00000003.json": change})
    read = one_window(shard)
    assert len(read.samples) == 12
    assert "00000003" not in read.samples.keys
    assert [
        reason.startswith(f"{shard.as_uri()}: 00000003: bad label: {said}") for reason in read.skipped
    ] == [True]


def test_labels_of_another_hand_model_end_the_training_by_name(shards: Path, tmp_path: Path) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    another = {f"{index:08d}.json": label("hand_model", "another") for index in range(3, 5)}
    shard = changed(good, tmp_path / "s.tar", another)
    with pytest.raises(TrainingDataError) as refusal:
        one_window(shard, ranges=None)
    said = "another hand model: 00000003: its pose and shape belong to hand model another"
    assert str(refusal.value).startswith(f"{shard.as_uri()}: {said}")
    # As it comes out of a Ray task, behind what it was raised from.
    text = f"Traceback\n{type(refusal.value).__module__}.TrainingDataError: {refusal.value}\n"
    assert TrainingDataError.found_in(text) == str(refusal.value)


def test_joints_alone_are_learnt_from_shards_of_any_hand_model(shards: Path, tmp_path: Path) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    everyone = {f"{index:08d}.json": label("hand_model", "another") for index in range(12)}
    shard = changed(good, tmp_path / "s.tar", everyone)
    assert len(one_window(shard, supervise="joints").samples) == 12


def test_a_shard_that_is_no_longer_what_was_planned_ends_the_training(shards: Path, tmp_path: Path) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    shard = changed(good, tmp_path / "s.tar", {})
    units = segments(tmp_path)
    changed(good, shard, {"00000002.jpg": broken})
    window = next(Order([12], lanes=1, micro_batch=4, seed=0).windows(0, 0))
    with pytest.raises(TrainingDataError, match=r"s\.tar"):
        reader(units)(window)
    shard.unlink()
    with pytest.raises(TrainingDataError, match="it was there when the job was planned"):
        reader(units)(window)


def test_a_window_without_one_usable_picture_ends_the_training(shards: Path, tmp_path: Path) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    shard = changed(good, tmp_path / "s.tar", {f"{index:08d}.jpg": broken for index in range(12)})
    with pytest.raises(TrainingDataError, match=r"s\.tar: not one sample of 12 can be used"):
        one_window(shard)
    read = ReadWindow.from_row(one_window(shard, ranges=None).to_row())
    assert len(read.samples) == 0, "of validation it is one of many"
    assert len(read.skipped) == 12


def test_labels_that_name_no_hand_model_have_manos(shards: Path, tmp_path: Path) -> None:
    good = sorted(shards.glob("*.tar"))[0]
    shard = changed(good, tmp_path / "s.tar", {"00000003.json": label("hand_model", None)})
    with pytest.raises(
        TrainingDataError, match="its pose and shape belong to hand model MANO, the run's is synth"
    ):
        one_window(shard)
    assert len(one_window(shard, supervise="joints").samples) == 12
    only_joints = {"00000003.json": lambda data: hand("mano", None)(label("hand_model", None)(data))}
    assert len(one_window(changed(good, shard, only_joints)).samples) == 12
