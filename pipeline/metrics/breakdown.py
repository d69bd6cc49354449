"""Means by group (side, sequence, object, occlusion …) with bootstrap confidence intervals, kept as sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics.bootstrap import poisson_weights

EVERYTHING = "all"
# The interval holds the middle 95 % of the replicates.
INTERVAL_PERCENT = (2.5, 97.5)
# A replicate misses all of k units with probability e^-k: beyond this share a group has one or two units.
LARGEST_EMPTY_SHARE = 0.09


@dataclass(frozen=True)
class BreakdownRow:
    """The mean of one metric in one group, and its 95 % confidence interval.

    `samples` are those that have the metric. The interval is NaN where it could say nothing: where so many
    replicates are empty that the group holds only one or two of the resampled units.
    """

    group_by: str
    group: str
    metric: str
    samples: int
    mean: float
    low: float
    high: float


class Breakdown:
    """Sums of any metrics by group, for the samples as they are and for each bootstrap replicate of them.

    Memory grows with groups × metrics × replicates, never with samples; those of several workers are merged. A way of
    grouping that turns out to have more than `most_groups` is dropped, and named in `too_many`.
    """

    def __init__(self, *, replicates: int = 200, most_groups: int = 1000) -> None:
        self.replicates, self.most_groups = replicates, most_groups
        self.too_many: set[str] = set()
        self._groups: dict[str, set[str]] = {}
        # By what is grouped, group and metric: (2, 1 + replicates), weighted sums of values above weights;
        # column 0 has every sample once.
        self._sums: dict[tuple[str, str, str], NDArray[np.float64]] = {}

    def add(
        self,
        errors: Mapping[str, Tensor],
        *,
        resampled_by: Sequence[str],
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Adds a batch: errors (N,) by metric, NaN where a sample has none.

        `resampled_by` names the unit (N) that the bootstrap draws or leaves: the sample's id, or its sequence
        where the frames of a video are not independent. `groups` name each sample's group (N) in each way of
        grouping; all samples together are the group "all" of "all".
        """
        names = list(errors)
        values_NM = np.stack([errors[name].double().cpu().numpy() for name in names], axis=1)
        measured_NM = ~np.isnan(values_NM)
        terms_N2M = np.stack((np.where(measured_NM, values_NM, 0), measured_NM), axis=1)
        drawn = poisson_weights(resampled_by, replicates=self.replicates)
        weights_NR = np.concatenate((np.ones((len(drawn), 1)), drawn), axis=1)
        for group_by, members in {EVERYTHING: [EVERYTHING] * len(drawn), **(groups or {})}.items():
            if not self._has_room(group_by, set(members)):
                continue
            found, group_N = np.unique(np.asarray(members, dtype=str), return_inverse=True)
            for number, group in enumerate(found):
                inside = group_N == number
                sums_2MR = np.tensordot(terms_N2M[inside], weights_NR[inside], axes=(0, 0))
                for column, name in enumerate(names):
                    self._add((group_by, str(group), name), sums_2MR[:, column])

    def merge(self, other: "Breakdown") -> None:
        """Adds what another worker has summed with as many replicates."""
        assert other.replicates == self.replicates
        self.too_many |= other.too_many
        taken = {by: self._has_room(by, groups) for by, groups in other._groups.items()}
        for key, sums in other._sums.items():
            if taken[key[0]]:
                self._add(key, sums)

    def rows(self) -> list[BreakdownRow]:
        """Returns the means and intervals, sorted by way of grouping and group; "all" stands first."""
        keys = sorted(self._sums, key=lambda key: (key[0] != EVERYTHING, key[0], key[1]))
        return [_row(key, self._sums[key]) for key in keys]

    def _has_room(self, group_by: str, groups: set[str]) -> bool:
        """Enters groups of a way of grouping; says whether there is room for them, and drops it where there is none."""
        known = self._groups.setdefault(group_by, set())
        known |= groups
        if group_by not in self.too_many and len(known) <= self.most_groups:
            return True
        self.too_many.add(group_by)
        known.clear()
        self._sums = {key: sums for key, sums in self._sums.items() if key[0] != group_by}
        return False

    def _add(self, key: tuple[str, str, str], sums_2R: NDArray[np.float64]) -> None:
        self._sums[key] = self._sums.get(key, 0) + sums_2R


def _row(key: tuple[str, str, str], sums_2R: NDArray[np.float64]) -> BreakdownRow:
    total_R, weight_R = sums_2R
    with np.errstate(invalid="ignore"):
        mean_R = total_R / weight_R
    replicate_means = mean_R[1:][weight_R[1:] > 0]
    low = high = float("nan")
    if len(replicate_means) > (1 - LARGEST_EMPTY_SHARE) * (len(mean_R) - 1):
        low, high = np.percentile(replicate_means, INTERVAL_PERCENT).tolist()
    return BreakdownRow(*key, samples=round(weight_R[0]), mean=float(mean_R[0]), low=low, high=high)


def occlusion_bins(visible: Sequence[Sequence[float] | None]) -> list[str]:
    """Returns the group of each sample by the share of its joints that are hidden (0 in `visible`)."""
    return [_occlusion_bin(joints) for joints in visible]


def _occlusion_bin(visible: Sequence[float] | None) -> str:
    if visible is None:
        return "unknown"
    hidden = sum(1 for joint in visible if not joint)
    for label, numerator, denominator in (("0", 0, 1), ("(0, 0.25]", 1, 4), ("(0.25, 0.5]", 1, 2)):
        if hidden * denominator <= numerator * len(visible):
            return label
    return "(0.5, 1]"
