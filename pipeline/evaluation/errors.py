"""The stage that measures: a unit's annotations against its labels, to one row of errors per labelled hand."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.errors import DataError
from pipeline.evaluation.hands import HandPoser
from pipeline.evaluation.measurement import Measurement, Pair, comparable, measure, metric_names
from pipeline.evaluation.truth import TrueHand, true_hands
from pipeline.flow import Flow, Stage
from pipeline.metrics import occlusion_bins
from pipeline.plan import load_keys
from pipeline.records import Unit, UnitRecord
from pipeline.sinks.parts import Part, part_uri, read_table, write_part
from pipeline.sources import SOURCES

MEASURED, MISSING, NO_TRUTH, REJECTED = "measured", "missing", "no_truth", "rejected"
# Hands whose meshes are held at once.
BATCH = 256

ERRORS_VERSION = 2
ABOUT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("hand_index", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("side", pa.string()),
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
rest of a damaged shard). root: the labelled wrist in camera space, metres. hidden_share: of the 21 joints. index:
in the benchmark's own order. other_hand_model: the labels', where their meshes are not those of the predictions.
The metrics follow as float64 columns: `pipeline.metrics.sample_errors`, null where there is none."""


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
            "annotated": part.counts.to_json(),
            "fingerprint": self.job.fingerprint,
            "units": "mm; auc and f-scores 0 to 1",
        }
        write_part(part_uri(self.output, "errors", unit.unit_id), table, metadata)
        return replace(record, counts=part.counts).timed("measure", time.perf_counter() - started)


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
    """Returns one row for each labelled hand of a unit, and for each sample that cannot be used."""
    annotations = read_table(job.predictions, "annotations", part)
    places = zip(annotations["key"].to_pylist(), annotations["hand_index"].to_pylist(), strict=True)
    row_of = {place: row for row, place in enumerate(places)}
    reasons = {
        (row["key"], row["hand_index"]): row["reason"]
        for row in (read_table(job.predictions, "ledger", part).to_pylist() if part.counts.rejects else ())
        if row["status"] == "rejected"
    }
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, float]] = []
    pairs: list[Pair] = []
    for key, index, hand in _labelled(job.predictions, unit):
        if isinstance(hand, DataError):
            about = {"source": unit.input, "key": key, "hand_index": index, "status": REJECTED}
            rows.append(about | {"reason": str(hand)})
            errors.append({})
            continue
        row = row_of.get((hand.key, hand.hand_index))
        lost = reasons.get((key, hand.hand_index)) or reasons.get((key, None)) or "no such hand was annotated"
        pairs.append(Pair(hand, row, None if row is not None else lost))
        if len(pairs) == BATCH:
            _take(job, poser, unit, annotations, pairs, rows, errors)
            pairs = []
    _take(job, poser, unit, annotations, pairs, rows, errors)
    return _table(job, rows, errors)


def _labelled(predictions: str, unit: Unit) -> Iterator[tuple[str | None, int | None, TrueHand | DataError]]:
    """Yields key, hand and truth of every labelled hand, and samples and hands that say why they have none."""
    for sample in SOURCES[unit.source].read(unit, load_keys(predictions, unit)):
        try:
            if sample.error is not None:
                raise sample.error
            hands = true_hands(sample.key, sample.label)
        except DataError as error:
            yield sample.key, None, error
            continue
        for index, hand in enumerate(hands):
            yield sample.key, index, hand
    if unit.damage is not None:
        yield None, None, DataError("damaged input", unit.damage)


def _take(
    job: Measurement,
    poser: HandPoser | None,
    unit: Unit,
    annotations: pa.Table,
    pairs: Sequence[Pair],
    rows: list[dict[str, Any]],
    errors: list[dict[str, float]],
) -> None:
    """Measures a batch and adds a row and a dictionary of errors for each pair."""
    if not pairs:
        return
    measured = measure(job, poser, annotations, pairs)
    found = pa.array([pair.row for pair in pairs if pair.row is not None], pa.int64())
    confidence = iter(annotations["confidence"].take(found).to_pylist())
    for number, pair in enumerate(pairs):
        known = pair.truth.is_known
        status = (MEASURED if pair.row is not None else MISSING) if known else NO_TRUTH
        rows.append(
            {
                "source": unit.input,
                "status": status,
                "reason": pair.reason,
                "confidence": None if pair.row is None else next(confidence),
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
