"""The errors of all units, read part by part and summed up: means, intervals, groups, and the worst hands."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from pipeline import storage
from pipeline.evaluation.errors import (
    ABOUT,
    MEASURED,
    MISSING,
    NO_TRUTH,
    NOT_FOUND,
    REJECTED,
    UNLABELLED,
    annotated_as,
)
from pipeline.evaluation.measurement import PLACEMENT
from pipeline.evaluation.reliability import half_of
from pipeline.metrics import Breakdown, BreakdownRow
from pipeline.records import Unit
from pipeline.sinks.parts import Part, footers, part_uri, read_files

# What is broken down by groups; of everything else only the mean over all is kept.
BY_GROUP = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm", "f5", "f15", "pa_f5", "pa_f15", "failed")
PA_MPJPE = "pa_mpjpe_mm"  # by which hands are the worst


@dataclass(frozen=True, order=True)
class WorstHand:
    """A measured hand that is far from the truth; hand_index: its label's, annotated_index: its annotation's."""

    error_mm: float
    unit_id: str
    key: str
    annotated_index: int
    hand_index: int


@dataclass
class Summary:
    """What came of an evaluation, all units together.

    counts: hands by status. reasons: of those without a prediction, or whose labels cannot be used, by kind. datasets,
    splits: hands by what their labels say they are of. other_side: hands that were taken for one of the other side.
    other_hand_models: hands whose labelled meshes belong to another hand model. placement: every hand's errors of the
    wrist in camera space, for their medians. confidence: every measured hand's, and its PA-MPJPE in mm, (2, n).
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    datasets: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    other_hand_models: Counter[str] = field(default_factory=Counter)
    other_side: int = 0
    other_fingertips: int = 0
    overall: Breakdown = field(default_factory=Breakdown)
    groups: Breakdown = field(default_factory=Breakdown)
    worst: list[WorstHand] = field(default_factory=list)
    placement: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    confidence: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def evaluated(self) -> int:
        """The hands that count: those that have a truth, predicted or not."""
        return self.counts[MEASURED] + self.counts[MISSING]

    @property
    def not_found(self) -> int:
        """The hands that were looked for and are not there: of `missing`, those with which nothing went wrong."""
        return self.reasons[NOT_FOUND]

    def means(self) -> dict[str, BreakdownRow]:
        """Returns the mean over all hands and its interval, by metric."""
        return {row.metric: row for row in self.overall.rows()}

    def medians(self) -> dict[str, float]:
        """Returns the medians of PLACEMENT, whose means a few hands that are far off would decide; {} without any."""
        errors = {name: np.concatenate(parts) for name, parts in self.placement.items()}
        return {name: float(np.median(values)) for name, values in errors.items() if len(values)}

    def halves(self) -> dict[str, float]:
        """Returns the PA-MPJPE to expect of a random half of the measured hands, which is that of all, that of the more
        confident half, and that of the half that one would keep if the errors were known, in mm; {} of no hands.
        """
        if not self.confidence:
            return {}
        confidence, errors = np.concatenate(self.confidence, axis=1)
        if not len(errors):
            return {}
        mean, best = float(errors.mean(dtype=np.float64)), half_of(confidence, errors)
        return {
            "random_half_mm": mean,
            "best_half_mm": best,
            "best_half_is_lower_by": 1 - best / max(mean, 1e-9),
            "perfect_half_mm": half_of(-errors, errors),
        }


def summarise(output: str, units: Sequence[Unit], worst: int) -> Summary:
    """Sums up the errors of units; memory grows with groups and with `worst`, and by 8 bytes a hand, 32 if placed."""
    summary = Summary()
    for unit, table in read_errors(output, units):
        _add(summary, table)
        _note_worst(summary.worst, unit, table, worst)
    summary.worst.sort(reverse=True)
    return summary


def read_errors(
    output: str, units: Iterable[Unit], columns: Sequence[str] | None = None
) -> Iterator[tuple[Unit, pa.Table]]:
    """Yields each unit with its part of `OUTPUT/errors`, in order, a few read ahead."""
    return read_files(output, "errors", units, columns)


def drop_others(output: str, units: Sequence[Unit]) -> None:
    """Removes the errors of units that are not among these: `OUTPUT/errors` holds what metrics.json sums up."""
    wanted = {part_uri(output, "errors", unit.unit_id) for unit in units}
    for file in list(storage.list_files(storage.join(output, "errors"))):
        if file.uri not in wanted:
            storage.delete(file.uri)


def measured_units(
    output: str, units: Sequence[Unit], parts: Mapping[str, Part], fingerprint: str
) -> set[str]:
    """Returns the ids of units whose errors are there: of this fingerprint, these labels and these annotations."""

    def is_current(unit: Unit, said: Mapping[str, str]) -> bool:
        wanted = (fingerprint, unit.version, annotated_as(parts[unit.unit_id]))
        return (said.get("fingerprint"), said.get("unit_version"), said.get("annotated")) == wanted

    return {unit.unit_id for unit, said in footers(output, "errors", units) if is_current(unit, said)}


def _add(summary: Summary, table: pa.Table) -> None:
    summary.counts.update(table["status"].to_pylist())
    for status, reason in zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True):
        if status in (MISSING, REJECTED):
            summary.reasons[(reason or status).split(":", 1)[0]] += 1
    summary.splits.update(name for name in table["split"].to_pylist() if name)
    table = table.filter(pc.is_in(table["status"], pa.array([MEASURED, MISSING])))
    if not table.num_rows:
        return
    summary.datasets.update(name or "unnamed" for name in table["dataset"].to_pylist())
    summary.other_hand_models.update(name for name in table["other_hand_model"].to_pylist() if name)
    summary.other_fingertips += sum(table["other_fingertips"].to_pylist())
    summary.other_side += pc.sum(pc.not_equal(table["side"], table["annotated_side"])).as_py() or 0
    errors = {
        name: torch.from_numpy(np.array(table[name].to_numpy(), np.float64))
        for name in table.column_names
        if name not in ABOUT.names
    }
    for name in errors.keys() & set(PLACEMENT):
        summary.placement.setdefault(name, []).append(table[name].drop_null().to_numpy())
    graded = table.filter(pc.and_(pc.is_valid(table["confidence"]), pc.is_valid(table[PA_MPJPE])))
    told = np.stack([graded["confidence"].to_numpy(), graded[PA_MPJPE].to_numpy()])
    summary.confidence.append(told.astype(np.float32))
    sequences = table["sequence"].to_pylist()
    places = zip(table["source"].to_pylist(), table["key"].to_pylist(), sequences, strict=True)
    drawn = [sequence or f"{source}#{key}" for source, key, sequence in places]
    summary.overall.add(errors, resampled_by=drawn)
    groups = {name: table[name].to_pylist() for name in ("side", "occlusion", "sequence", "object")}
    # A way of grouping that no label knows of says nothing.
    groups = {name: [value or "unnamed" for value in named] for name, named in groups.items() if any(named)}
    by_group = {name: errors[name] for name in BY_GROUP if name in errors}
    summary.groups.add(by_group, resampled_by=drawn, groups=groups)


def _note_worst(worst: list[WorstHand], unit: Unit, table: pa.Table, most: int) -> None:
    """Keeps the hands with the largest errors, in a heap."""
    measured = table.filter(pc.and_(pc.equal(table["status"], MEASURED), pc.is_valid(table[PA_MPJPE])))
    columns = [PA_MPJPE, "key", "annotated_index", "hand_index"]
    for error, key, *indices in zip(*(measured[name].to_pylist() for name in columns), strict=True):
        hand = WorstHand(error, unit.unit_id, key, *indices)
        if len(worst) < most:
            heapq.heappush(worst, hand)
        elif most and worst[0] < hand:
            heapq.heapreplace(worst, hand)


def to_json(summary: Summary) -> dict[str, Any]:
    """Returns counts, means with their 95 % intervals, medians of PLACEMENT, and groups, as metrics.json holds them."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    medians = summary.medians()
    for row in summary.groups.rows():
        if row.group_by != "all":
            groups.setdefault(row.group_by, {}).setdefault(row.group, {})[row.metric] = _plain(row)
    return {
        "hands": {name: summary.counts[name] for name in (MEASURED, MISSING, NO_TRUTH, REJECTED, UNLABELLED)},
        "other_side": summary.other_side,
        "reasons": dict(sorted(summary.reasons.items())),
        "labels_of": dict(sorted(summary.datasets.items())),
        "splits": dict(sorted(summary.splits.items())),
        "metrics": {
            name: _plain(row) | ({"median": _number(medians[name])} if name in medians else {})
            for name, row in summary.means().items()
        },
        "by_confidence": {name: _number(value) for name, value in summary.halves().items()},
        "by": groups,
        "by_too_many": sorted(summary.groups.too_many),
    }


def _plain(row: BreakdownRow) -> dict[str, Any]:
    numbers = {"mean": row.mean, "low": row.low, "high": row.high}
    return {"samples": row.samples, **{name: _number(value) for name, value in numbers.items()}}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.9g}")
