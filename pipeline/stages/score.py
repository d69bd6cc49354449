"""The stage before writing: what can be said of each hand's quality, and one confidence from that."""

import time
from dataclasses import dataclass, replace

import pyarrow as pa

from model.mano.anatomy import Anatomy
from pipeline import quality
from pipeline.calibration import Curve, features_of
from pipeline.records import ANNOTATIONS, UnitRecord


@dataclass(frozen=True)
class Score:
    """Adds the quality columns that follow from the others; with a curve also confidence and expected error."""

    anatomy: Anatomy
    curve: Curve | None

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        hands = record.hands
        if hands.num_rows:
            hands = _with_columns(hands, quality.measure(hands, self.anatomy))
            if self.curve is not None:
                confidence = self.curve.confidence(features_of(hands, self.curve.features))
                expected = self.curve.expected_error_mm(confidence)
                hands = _with_columns(hands, {"confidence": confidence, "expected_error_mm": expected})
        return replace(record, hands=hands).timed("score", time.perf_counter() - started)


def _with_columns(hands: pa.Table, columns: dict[str, quality.Floats]) -> pa.Table:
    for name, values in columns.items():
        field = ANNOTATIONS.field(name)
        hands = hands.set_column(hands.schema.get_field_index(name), field, pa.array(values, field.type))
    return hands
