"""The stage that measures: a unit's annotations against its labels, to rows of errors."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.columns import numbers
from pipeline.errors import DataError
from pipeline.evaluation.hands import HandPoser
from pipeline.evaluation.measurement import Measurement, Pair, comparable, measure, metric_names
from pipeline.evaluation.pairing import pair_by_place
from pipeline.evaluation.truth import TrueHand, true_hands
from pipeline.flow import Flow, Stage
from pipeline.metrics import occlusion_bins
from pipeline.plan import load_keys
from pipeline.records import Unit, UnitRecord
from pipeline.sinks.parts import Part, part_uri, read_table, write_part
from pipeline.sources import SOURCES

MEASURED, MISSING, NO_TRUTH, REJECTED = "measured", "missing", "no_truth", "rejected"
UNLABELLED = "unlabelled"
NOT_FOUND = "not found"  # why a hand is missing with which nothing went wrong
# Hands whose meshes are held at once.
BATCH = 256

ERRORS_VERSION = 4
ABOUT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("hand_index", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("side", pa.string()),
        pa.field("annotated_index", pa.int32()),
        pa.field("annotated_side", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("index", pa.int64()),
        pa.field("sequence", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("object", pa.string()),
        pa.field("hidden_share", pa.float32()),
        pa.field("occlusion", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("root", pa.list_(pa.float64())),
        pa.field("other_hand_model", pa.string()),
        pa.field("other_fingertips", pa.bool_()),
    ]
)
"""What stands beside the errors. status: `measured`; `missing`: no prediction, failed by every metric; `no_truth`:
the label says nothing to measure against; `rejected`: what the shard says of it cannot be used (without key: the
rest of a damaged shard); `unlabelled`: an annotated hand that lies where no labelled one does. annotated_index,
annotated_side: what the annotation's row says of the hand. root: the labelled wrist in camera space, metres.
hidden_share: of the 21 joints. index: in the benchmark's own order. other_hand_model: the labels', where their meshes
are not those of the predictions. The metrics follow as float64 columns: `pipeline.metrics.sample_errors`, null where
there is none."""


class MeasureUnit:
    """Measures a unit and writes its part of `OUTPUT/errors`, which commits it."""

    def __init__(self, output: str, measurement: Measurement) -> None:
        torch.set_num_threads(1)
        self.output, self.job = output, measurement
        self.poser = None if measurement.hand_model is None else HandPoser(measurement.hand_model)

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit, part = record.unit, self.job.parts[record.unit.unit_id]
        table = errors_of_unit(self.job, self.poser, unit, part)
        metadata = {
            "unit_id": unit.unit_id,
            "unit_version": unit.version,
            "annotated": annotated_as(part),
            "fingerprint": self.job.fingerprint,
            "units": "mm; root in metres, depth_error_percent in %, auc and f-scores 0 to 1",
        }
        write_part(part_uri(self.output, "errors", unit.unit_id), table, metadata)
        return replace(record, counts=part.counts).timed("measure", time.perf_counter() - started)


def annotated_as(part: Part) -> str:
    """Returns what tells the annotations of a unit from those of other pictures, in the footer of its errors."""
    return f"{part.unit_version} {part.counts.to_json()}"


@dataclass(frozen=True)
class UnitMeasurer:
    """What every worker makes its `MeasureUnit` of."""

    output: str
    measurement: Measurement

    def __call__(self) -> MeasureUnit:
        return MeasureUnit(self.output, self.measurement)


def evaluation_flow(output: str, measurement: Measurement) -> Flow:
    """Returns the one stage that measures."""
    return Flow("evaluate", (Stage("measure", UnitMeasurer(output, measurement), cpus=1.0),))


def errors_of_unit(job: Measurement, poser: HandPoser | None, unit: Unit, part: Part) -> pa.Table:
    """Returns one row for each labelled hand of a unit, for each other one that was found, and for each sample that
    cannot be used.
    """
    annotations = read_table(job.predictions, "annotations", part)
    annotated = _Annotated(annotations)
    reasons: dict[str | None, dict[int | None, str]] = {}
    for row in read_table(job.predictions, "ledger", part).to_pylist() if part.counts.rejects else ():
        if row["status"] == "rejected":
            reasons.setdefault(row["key"], {})[row["hand_index"]] = row["reason"]
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, float]] = []
    pairs: list[Pair] = []

    def tell(about: Mapping[str, Any]) -> None:
        rows.append({"source": unit.input, **about})
        errors.append({})

    for key, hands in _labelled(job.predictions, unit):
        if isinstance(hands, DataError):
            tell({"key": key, "status": REJECTED, "reason": str(hands)})
            continue
        usable = [hand for hand in hands if isinstance(hand, TrueHand)]
        row_of = annotated.by_index(key) if job.boxes_given else annotated.by_place(key, usable)
        for index, hand in enumerate(hands):
            if isinstance(hand, DataError):
                tell({"key": key, "hand_index": index, "status": REJECTED, "reason": str(hand)})
                continue
            row = row_of.get(index)
            pairs.append(Pair(hand, row, _why(job, reasons.get(key, {}), index) if row is None else None))
        # Any other one may be the hand whose label cannot be used.
        if len(usable) == len(hands) and not job.boxes_given:
            for row in sorted(set(annotated.rows_of(key)) - set(row_of.values())):
                tell({"key": key, "status": UNLABELLED, **annotated.about(row)})
        if len(pairs) >= BATCH:
            _take(job, poser, unit, annotations, annotated, pairs, rows, errors)
            pairs = []
    _take(job, poser, unit, annotations, annotated, pairs, rows, errors)
    return _table(job, rows, errors)


def _why(job: Measurement, reasons: Mapping[int | None, str], index: int) -> str:
    """Says why a hand has no annotation, from what was rejected of its sample."""
    if job.boxes_given:
        return reasons.get(index) or reasons.get(None) or "no such hand was annotated"
    # Nobody knows which of the labelled hands a rejected one would have been.
    return next(iter(reasons.values()), NOT_FOUND)


class _Annotated:
    """Which rows of a unit's annotations are whose."""

    def __init__(self, annotations: pa.Table) -> None:
        self._rows: dict[str | None, list[int]] = {}
        for row, key in enumerate(annotations["key"].to_pylist()):
            self._rows.setdefault(key, []).append(row)
        self._indices = annotations["hand_index"].to_pylist()
        self._sides = annotations["side"].to_pylist()
        self._confidences = annotations["confidence"].to_pylist()
        self._boxes = numbers(annotations, "bbox", 4)
        self._sizes = np.stack(
            [annotations[name].to_numpy() for name in ("image_width", "image_height")], axis=1
        )

    def rows_of(self, key: str | None) -> list[int]:
        """Returns the rows of a sample."""
        return self._rows.get(key, [])

    def by_index(self, key: str | None) -> dict[int, int]:
        """Returns a sample's rows by the index of the hand that was given."""
        return {self._indices[row]: row for row in self.rows_of(key)}

    def by_place(self, key: str | None, hands: Sequence[TrueHand]) -> dict[int, int]:
        """Returns those of a sample's rows that lie where a labelled hand does, by that one's index."""
        rows = self.rows_of(key)
        if not rows or not hands:
            return {}
        # What lies outside of the picture no detector sees.
        boxes = np.array([hand.bbox for hand in hands])
        ends = np.clip(boxes[:, :2] + boxes[:, 2:], 0, self._sizes[rows[0]])
        boxes[:, :2] = np.maximum(boxes[:, :2], 0)
        boxes[:, 2:] = np.maximum(ends - boxes[:, :2], 0)
        pairs = pair_by_place(
            boxes,
            np.array([hand.left for hand in hands], np.bool_),
            self._boxes[rows],
            np.array([self._sides[row] == "left" for row in rows], np.bool_),
        )
        return {hands[one].hand_index: rows[other] for one, other in pairs}

    def about(self, row: int) -> dict[str, Any]:
        """Returns what stands in the errors' row of its hand."""
        return {
            "annotated_index": self._indices[row],
            "annotated_side": self._sides[row],
            "confidence": self._confidences[row],
        }


def _labelled(
    predictions: str, unit: Unit
) -> Iterator[tuple[str | None, list[TrueHand | DataError] | DataError]]:
    """Yields each sample's key and labelled hands, or why it has none; hands that cannot be used say why."""
    for sample in SOURCES[unit.source].read(unit, load_keys(predictions, unit)):
        try:
            if sample.error is not None:
                raise sample.error
            hands = true_hands(sample.key, sample.label)
        except DataError as error:
            yield sample.key, error
            continue
        yield sample.key, hands
    if unit.damage is not None:
        yield None, DataError("damaged input", unit.damage)


def _take(
    job: Measurement,
    poser: HandPoser | None,
    unit: Unit,
    annotations: pa.Table,
    annotated: _Annotated,
    pairs: Sequence[Pair],
    rows: list[dict[str, Any]],
    errors: list[dict[str, float]],
) -> None:
    """Measures a batch and adds a row and a dictionary of errors for each pair."""
    if not pairs:
        return
    measured = measure(job, poser, annotations, pairs)
    for number, pair in enumerate(pairs):
        known = pair.truth.is_known
        status = (MEASURED if pair.row is not None else MISSING) if known else NO_TRUTH
        rows.append(
            {
                "source": unit.input,
                "status": status,
                "reason": pair.reason,
                **({} if pair.row is None else annotated.about(pair.row)),
                **_about(job, pair.truth),
            }
        )
        errors.append({name: float(values[number]) for name, values in measured.items()} if known else {})


def _about(job: Measurement, truth: TrueHand) -> dict[str, Any]:
    same_tips = truth.fingertips is None or truth.fingertips == job.fingertips
    hidden = None if truth.visible is None else 1 - sum(truth.visible) / len(truth.visible)
    has_mesh = truth.vertices is not None or truth.pose is not None
    return {
        "key": truth.key,
        "hand_index": truth.hand_index,
        "side": "left" if truth.left else "right",
        "dataset": truth.dataset,
        "split": truth.split,
        "index": truth.index,
        "sequence": truth.sequence,
        "subject": truth.subject,
        "object": truth.object,
        "hidden_share": hidden,
        "occlusion": occlusion_bins([truth.visible])[0],
        "root": None if truth.root is None else truth.root.tolist(),
        "other_hand_model": None if comparable(job, truth) or not has_mesh else truth.hand_model or "unnamed",
        "other_fingertips": not same_tips,
    }


def _table(
    job: Measurement, rows: Sequence[Mapping[str, Any]], errors: Sequence[Mapping[str, float]]
) -> pa.Table:
    columns = [
        pa.array([row.get(field.name) for row in rows], field.type)  # what a row does not say is null
        for field in ABOUT
    ]
    names = metric_names(job)
    for name in names:
        values = np.array([error.get(name, np.nan) for error in errors], np.float64)
        columns.append(pa.array(values, mask=np.isnan(values)))
    schema = pa.schema([*ABOUT, *(pa.field(name, pa.float64()) for name in names)])
    return pa.Table.from_arrays(columns, schema=schema)
