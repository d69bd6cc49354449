"""How good a confidence is: whether it is right, and whether it puts good hands before bad ones.

N hands; errors in millimetres. Hands of equal confidence count as in random order, in the mean over all orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.charts import BLUE, GREEN, GREY, INK, ORANGE, Picture, Series, line_chart

Floats = NDArray[np.float64]

BINS: Final = 15
SEEDS: Final = 20
_COLOURS: Final = (ORANGE, BLUE, GREEN)


@dataclass(frozen=True)
class Bin:
    """Hands of like confidence: how many, their mean confidence, and the share that is good."""

    hands: int
    confidence: float
    good: float


def reliability_bins(confidence_N: Floats, good_N: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """Returns bins of about equally many hands, by rising confidence; equal confidences share a bin."""
    place = _bin_of(confidence_N, bins)
    return [
        Bin(int(chosen.sum()), float(confidence_N[chosen].mean()), float(good_N[chosen].mean()))
        for number in np.unique(place)
        for chosen in [place == number]
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """Returns the mean distance, over hands, between confidence and share of good ones (ECE, here of bins of
    equally many hands)."""
    hands = sum(each.hands for each in bins)
    return sum(each.hands * abs(each.confidence - each.good) for each in bins) / hands


def auroc(confidence_N: Floats, good_N: NDArray[np.bool_]) -> float:
    """Returns the share of pairs of a good and a bad hand in which the good one is the more confident."""
    good, bad = int(good_N.sum()), int((~good_N).sum())
    ranks = rankdata(confidence_N)
    return float((ranks[good_N].sum() - good * (good + 1) / 2) / (good * bad))


def error_by_coverage(confidence_N: Floats, errors_mm_N: Floats) -> Floats:
    """Returns the mean error (N,) of the 1, 2, … N most confident hands."""
    _, place, counts = np.unique(-confidence_N, return_inverse=True, return_counts=True)
    tied = np.bincount(place, errors_mm_N) / counts
    in_order = np.repeat(tied, counts)
    return np.asarray(np.cumsum(in_order) / np.arange(1, len(in_order) + 1))


def half_of(confidence_N: NDArray[np.floating], errors_mm_N: NDArray[np.floating]) -> float:
    """Returns the mean error of the more confident half; of equal confidences at its border each counts in part."""
    half = max(1, len(errors_mm_N) // 2)
    least = np.partition(confidence_N, -half)[-half]
    surer, tied = confidence_N > least, confidence_N == least
    left = half - np.count_nonzero(surer)
    return float(
        (errors_mm_N[surer].sum(dtype=np.float64) + left * errors_mm_N[tied].mean(dtype=np.float64)) / half
    )


@dataclass(frozen=True)
class HeldOut:
    """Confidences (N,) of hands by one way of telling, and the errors that it expects of them, if it does."""

    name: str
    confidence: Floats
    expected_error_mm: Floats | None


def judge(told: HeldOut, errors_mm_N: Floats, threshold_mm: float) -> dict[str, Any]:
    """Returns ECE, AUROC, AURC, and what keeping the best half is worth, as plain numbers.

    aurc_mm: the mean over all coverages of the error of the hands kept. best_half_mm against random_half_mm: the mean
    of all, as a half drawn at random has on average, with the lowest and highest of `SEEDS` such halves;
    perfect_half_mm: if the errors were known.
    expected_error_off_by_mm: over bins as of ECE, how far the expected error is from the mean error.
    """
    good = errors_mm_N < threshold_mm
    curve = error_by_coverage(told.confidence, errors_mm_N)
    half = max(1, len(curve) // 2)
    halves = [
        float(np.random.default_rng(seed).permutation(errors_mm_N)[:half].mean()) for seed in range(SEEDS)
    ]
    best, at_random = half_of(told.confidence, errors_mm_N), float(errors_mm_N.mean())
    found: dict[str, Any] = {
        "ece": expected_calibration_error(reliability_bins(told.confidence, good)),
        "auroc": auroc(told.confidence, good),
        "aurc_mm": float(curve.mean()),
        "best_half_mm": best,
        "random_half_mm": {"mean": at_random, "low": min(halves), "high": max(halves), "seeds": SEEDS},
        "best_half_is_lower_by": 1 - best / at_random,
        "perfect_half_mm": half_of(-errors_mm_N, errors_mm_N),
    }
    if told.expected_error_mm is not None:
        place = _bin_of(told.confidence, BINS)
        apart = [
            abs(float((told.expected_error_mm - errors_mm_N)[place == number].sum()))
            for number in np.unique(place)
        ]
        found["expected_error_off_by_mm"] = sum(apart) / len(errors_mm_N)
    return found


def reliability_chart(told: Sequence[HeldOut], errors_mm_N: Floats, threshold_mm: float) -> Picture:
    """Draws the share of good hands over confidence, in bins; on the diagonal a confidence is right."""
    good = errors_mm_N < threshold_mm
    series = [Series("right", (0, 1), (0, 1), GREY)]
    for each, colour in zip(told, _COLOURS, strict=False):
        bins = reliability_bins(each.confidence, good)
        series.append(
            Series(each.name, [one.confidence for one in bins], [one.good for one in bins], colour, dots=True)
        )
    return line_chart(
        series,
        title=f"{len(good)} held-out hands in {BINS} bins",
        x_label="confidence",
        y_label=f"share with PA-MPJPE < {threshold_mm:g} mm",
        x_range=(0, 1),
        y_range=(0, 1),
    )


def coverage_chart(told: Sequence[HeldOut], errors_mm_N: Floats) -> Picture:
    """Draws the mean error of the hands kept over the share that is kept, with the two bounds of any order."""
    share = np.arange(1, len(errors_mm_N) + 1) / len(errors_mm_N)
    mean = float(errors_mm_N.mean())
    series = [Series("at random", (0, 1), (mean, mean), GREY)]
    series += [
        Series(each.name, share.tolist(), error_by_coverage(each.confidence, errors_mm_N).tolist(), colour)
        for each, colour in zip(told, _COLOURS, strict=False)
    ]
    series.append(
        Series(
            "if the errors were known",
            share.tolist(),
            error_by_coverage(-errors_mm_N, errors_mm_N).tolist(),
            INK,
        )
    )
    return line_chart(
        series,
        title=f"{len(errors_mm_N)} held-out hands",
        x_label="share of hands kept, the most confident first",
        y_label="PA-MPJPE of those kept, mm",
        x_range=(0, 1),
        y_range=(0, 1.7 * mean),
    )


def _bin_of(confidence_N: Floats, bins: int) -> NDArray[np.int64]:
    ranks = rankdata(confidence_N, method="min") - 1
    return np.asarray(ranks * bins / max(len(ranks), 1)).astype(np.int64)
