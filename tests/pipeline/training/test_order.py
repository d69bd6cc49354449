from collections import Counter
from dataclasses import replace

import pytest

from pipeline.training.order import Order, Window

# Shards of 70, 32 and 45 samples, in runs of at most 32.
SEGMENTS = (32, 32, 6, 32, 32, 13)
ORDER = Order(SEGMENTS, lanes=3, micro_batch=4, seed=5, window=16)

Sample = tuple[int, int]


def samples(window: Window) -> list[Sample]:
    return [(piece.segment, number) for piece in window.pieces for number in range(piece.first, piece.last)]


def lane_samples(order: Order, epoch: int, lane: int, first_step: int = 0) -> list[Sample]:
    return [sample for window in order.windows(epoch, lane, first_step) for sample in samples(window)]


def every_lane(order: Order, epoch: int) -> list[Sample]:
    return [sample for lane in range(order.lanes) for sample in lane_samples(order, epoch, lane)]


@pytest.mark.parametrize(
    "order",
    [ORDER, replace(ORDER, lanes=1), replace(ORDER, lanes=5, micro_batch=7, window=7)],
    ids=["three lanes", "one lane", "windows of one micro-batch"],
)
def test_an_epoch_has_every_sample_once_and_is_filled_up_from_its_start(order: Order) -> None:
    seen = every_lane(order, epoch=2)
    assert len(seen) == order.steps * order.batch
    first = seen[: sum(SEGMENTS)]
    assert set(first) == {(segment, n) for segment, size in enumerate(SEGMENTS) for n in range(size)}
    assert seen[sum(SEGMENTS) :] == first[: len(seen) - sum(SEGMENTS)]
    assert len(seen) - sum(SEGMENTS) < order.batch


def test_a_set_smaller_than_a_batch_is_repeated_to_fill_it() -> None:
    order = Order((3,), lanes=2, micro_batch=4, seed=0)
    assert order.steps == 1
    assert Counter(every_lane(order, 0)) == {(0, 0): 3, (0, 1): 3, (0, 2): 2}


def test_epochs_and_seeds_differ_and_are_repeatable() -> None:
    assert every_lane(ORDER, 0) == every_lane(ORDER, 0)
    assert every_lane(ORDER, 0) != every_lane(ORDER, 1)
    assert every_lane(ORDER, 0) != every_lane(replace(ORDER, seed=6), 0)


def test_a_position_in_the_epoch_belongs_to_one_sample_whatever_the_lanes() -> None:
    """Augmentation is drawn by epoch and position."""

    def positions(order: Order) -> set[tuple[int, int, int]]:
        return {
            (piece.position + number - piece.first, piece.segment, number)
            for lane in range(order.lanes)
            for window in order.windows(0, lane)
            for piece in window.pieces
            for number in range(piece.first, piece.last)
            if piece.position + number - piece.first < sum(SEGMENTS)
        }

    assert len(positions(ORDER)) == sum(SEGMENTS)
    assert positions(ORDER) == positions(replace(ORDER, lanes=1))


@pytest.mark.parametrize("step", [1, 3, 4, 5, 12])
def test_from_a_step_on_a_lane_reads_the_very_windows_that_are_left(step: int) -> None:
    """A window is shuffled as a whole, so that one begun before is read again, and its first samples skipped."""
    for lane in range(ORDER.lanes):
        whole = list(ORDER.windows(1, lane))
        resumed = list(ORDER.windows(1, lane, step))
        assert [replace(window, skip=0) for window in resumed] == whole[len(whole) - len(resumed) :]
        left = sum(len(samples(window)) for window in resumed) - resumed[0].skip
        assert left == (ORDER.steps - step) * ORDER.micro_batch
        assert all(window.skip == 0 for window in resumed[1:])


def test_all_lanes_have_their_windows_at_the_same_steps() -> None:
    sizes = [[len(samples(window)) for window in ORDER.windows(0, lane)] for lane in range(ORDER.lanes)]
    assert sizes[0] == sizes[1] == sizes[2]
    assert all(size % ORDER.micro_batch == 0 for size in sizes[0])
