import math
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.metrics import Breakdown, BreakdownRow, occlusion_bins

SAMPLES = 2000
ERRORS = {
    "mpjpe_mm": torch.from_numpy(np.random.default_rng(0).gamma(4, 3, SAMPLES)),
    "f5": torch.linspace(0, 1, SAMPLES),
}
IDS = [f"s3://set/{number}.jpg#0" for number in range(SAMPLES)]
SIDES = ["left" if number % 3 else "right" for number in range(SAMPLES)]


def broken_down(part: slice, **kwargs: int) -> Breakdown:
    breakdown = Breakdown(**kwargs)
    breakdown.add(
        {name: error[part] for name, error in ERRORS.items()},
        resampled_by=IDS[part],
        groups={"side": SIDES[part]},
    )
    return breakdown


def find(rows: list[BreakdownRow], metric: str, group: str = "all") -> BreakdownRow:
    (row,) = (row for row in rows if (row.metric, row.group) == (metric, group))
    return row


def test_groups_have_the_means_of_their_samples() -> None:
    rows = broken_down(slice(None)).rows()
    right = np.array(SIDES) == "right"
    assert [(row.group_by, row.group) for row in rows[::2]] == [
        ("all", "all"),
        ("side", "left"),
        ("side", "right"),
    ]
    for group, inside in (("all", right | ~right), ("right", right), ("left", ~right)):
        row = find(rows, "mpjpe_mm", group)
        assert row.samples == inside.sum()
        assert row.mean == pytest.approx(ERRORS["mpjpe_mm"].numpy()[inside].mean())


def test_the_interval_is_that_of_the_standard_error() -> None:
    row = find(broken_down(slice(None), replicates=1000).rows(), "mpjpe_mm")
    half_width = 1.96 * ERRORS["mpjpe_mm"].std().item() / math.sqrt(SAMPLES)
    assert row.mean - row.low == pytest.approx(half_width, rel=0.1)
    assert row.high - row.mean == pytest.approx(half_width, rel=0.1)


def test_any_cut_into_workers_gives_the_same_rows() -> None:
    def parts() -> Iterator[Breakdown]:
        for part in (slice(700, None), slice(0, 1), slice(1, 1), slice(1, 700)):
            yield pickle.loads(pickle.dumps(broken_down(part)))

    merged, *others = parts()
    for other in others:
        merged.merge(other)
    for row, expected in zip(merged.rows(), broken_down(slice(None)).rows(), strict=True):
        assert (row.group, row.metric, row.samples) == (expected.group, expected.metric, expected.samples)
        assert (row.mean, row.low, row.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_frames_that_repeat_each_other_do_not_narrow_the_interval_of_sequences() -> None:
    shots = ERRORS["mpjpe_mm"][:100]
    sequences = [f"ABF{number}" for number in range(100)]
    once, repeated = Breakdown(replicates=500), Breakdown(replicates=500)
    once.add({"mpjpe_mm": shots}, resampled_by=sequences)
    repeated.add({"mpjpe_mm": shots.repeat_interleave(20)}, resampled_by=np.repeat(sequences, 20).tolist())
    (single,), (row,) = once.rows(), repeated.rows()
    assert row.samples == 20 * single.samples
    assert (row.low, row.high) == pytest.approx((single.low, single.high))


def test_samples_without_a_metric_do_not_count() -> None:
    breakdown = Breakdown()
    breakdown.add({"f5": torch.tensor([0.5, torch.nan, 0.7])}, resampled_by=IDS[:3])
    (row,) = breakdown.rows()
    assert (row.samples, row.mean) == (2, pytest.approx(0.6))


def test_a_way_of_grouping_with_too_many_groups_is_dropped_and_named() -> None:
    def of(part: slice, most: int) -> Breakdown:
        breakdown = Breakdown(replicates=5, most_groups=most)
        named = {"side": SIDES[part], "sequence": IDS[part]}
        breakdown.add({"f5": ERRORS["f5"][part]}, resampled_by=IDS[part], groups=named)
        return breakdown

    def ways(breakdown: Breakdown) -> set[str]:
        return {row.group_by for row in breakdown.rows()}

    grown, few = of(slice(30), 50), of(slice(30, 60), 50)
    assert ways(grown) == {"all", "side", "sequence"}
    grown.merge(few)
    assert (ways(grown), grown.too_many) == ({"all", "side"}, {"sequence"})
    few.merge(grown)
    assert (ways(few), few.too_many) == ({"all", "side"}, {"sequence"})
    assert sum(row.samples for row in few.rows() if row.group_by == "side") == 90


def test_one_sequence_has_no_interval() -> None:
    breakdown = Breakdown()
    breakdown.add(ERRORS, resampled_by=["ABF10"] * SAMPLES)
    assert all(math.isnan(row.low) and math.isnan(row.high) for row in breakdown.rows())
    assert not any(math.isnan(row.mean) for row in breakdown.rows())


def test_occlusion_is_the_share_of_hidden_joints() -> None:
    hidden = [0, 1, 5, 6, 10, 11, 21]
    visible = [[0] * count + [1] * (21 - count) for count in hidden]
    assert occlusion_bins([None, *visible]) == [
        "unknown",
        "0",
        *["(0, 0.25]"] * 2,
        *["(0.25, 0.5]"] * 2,
        *["(0.5, 1]"] * 2,
    ]
