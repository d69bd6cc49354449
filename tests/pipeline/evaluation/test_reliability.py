"""Whether a confidence is right, and whether it puts good hands first, on cases that can be counted by hand."""

import numpy as np
import pytest

from pipeline.charts import BLUE, Series, line_chart
from pipeline.evaluation.reliability import (
    HeldOut,
    auroc,
    coverage_chart,
    error_by_coverage,
    expected_calibration_error,
    half_of,
    judge,
    reliability_bins,
    reliability_chart,
)


def test_pairs_are_counted_and_ties_count_half() -> None:
    good = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.8, 0.2, 0.1]), good) == 1
    assert auroc(np.array([0.9, 0.2, 0.8, 0.1]), good) == 0.75
    assert auroc(np.full(4, 0.5), good) == 0.5


def test_coverage_keeps_the_confident_first_and_ties_in_no_order() -> None:
    errors = np.array([4.0, 1.0, 3.0])
    assert error_by_coverage(np.array([0.1, 0.9, 0.5]), errors).tolist() == [1, 2, 8 / 3]
    tied = error_by_coverage(np.array([0.5, 0.5, 0.9]), errors)
    assert tied.tolist() == [3, 2.75, 8 / 3]
    assert error_by_coverage(np.full(3, 0.5), errors) == pytest.approx(np.full(3, 8 / 3))


def test_a_confidence_that_is_right_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    good = rng.random(20_000) < confidence
    assert expected_calibration_error(reliability_bins(confidence, good)) < 0.02
    assert expected_calibration_error(reliability_bins(confidence**3, good)) > 0.15
    bins = reliability_bins(np.full(10, 0.4), np.arange(10) < 7)
    assert [(one.hands, one.confidence, one.good) for one in bins] == [(10, pytest.approx(0.4), 0.7)]


def test_the_best_half_is_held_against_random_halves_and_the_best_there_could_be() -> None:
    errors = np.arange(1.0, 101.0)
    known = judge(HeldOut("known", 1 / errors, errors), errors, 50.0)
    assert known["best_half_mm"] == known["perfect_half_mm"] == pytest.approx(25.5)
    assert known["random_half_mm"]["mean"] == pytest.approx(50.5)
    assert known["random_half_mm"]["low"] < 50.5 < known["random_half_mm"]["high"]
    assert known["expected_error_off_by_mm"] == 0
    nothing = judge(HeldOut("nothing", np.full(100, 0.3), None), errors, 50.0)
    assert nothing["best_half_mm"] == pytest.approx(50.5)
    assert nothing["auroc"] == 0.5


def test_of_equal_confidences_at_the_border_of_the_half_each_counts_in_part() -> None:
    errors = np.array([2.0, 1.0, 4.0, 6.0])
    assert half_of(np.array([0.5, 0.9, 0.5, 0.5]), errors) == (1 + 4) / 2
    assert half_of(np.full(4, 0.5), errors) == errors.mean()


def test_charts_draw_every_series_in_its_colour() -> None:
    rng = np.random.default_rng(0)
    errors = rng.uniform(5, 15, 300)
    told = [HeldOut("before", rng.random(300), None), HeldOut("after", 1 / errors, errors)]
    for picture in (reliability_chart(told, errors, 10.0), coverage_chart(told, errors)):
        assert picture.shape == (540, 720, 3)
    line = line_chart(
        [Series("a", (0, 1), (0.5, 0.5), BLUE)],
        title="t",
        x_label="x",
        y_label="y",
        x_range=(0, 1),
        y_range=(0, 1),
    )
    rows = np.flatnonzero((np.abs(line.astype(int) - BLUE).max(axis=2) < 60).sum(axis=1) > 300)
    assert len(rows)
    assert abs(rows.mean() - (44 + (540 - 44 - 58) / 2)) < 2
