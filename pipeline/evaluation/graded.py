"""Annotated hands with their errors: what a calibration is learnt on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.calibration import Floats, features_of, peak_mass
from pipeline.errors import ConfigError
from pipeline.evaluation.errors import MEASURED
from pipeline.evaluation.hands import rows_of
from pipeline.evaluation.summary import read_errors
from pipeline.pseudo_labels.labels import DATASET
from pipeline.records import Unit
from pipeline.sinks.parts import Part, read_table

ERROR = "pa_mpjpe_mm"


@dataclass(frozen=True)
class GradedHands:
    """N hands, in an order that depends on nothing but their names.

    features: (N, F). errors_mm: PA-MPJPE. peak_mass: their confidence before any calibration. folds: a number per
    sequence, or per picture where there are none, 0 to folds - 1: what looks alike stays together. measured: how many
    there were to choose from.
    """

    features: Floats
    errors_mm: Floats
    peak_mass: Floats
    folds: NDArray[np.int64]
    measured: int


def read_graded(
    predictions: str,
    evaluation: str,
    units: Sequence[Unit],
    parts: Mapping[str, Part],
    *,
    names: Sequence[str],
    folds: int,
    most: int,
    seed: int,
) -> GradedHands:
    """Reads annotations and errors unit by unit, and keeps `most` hands, drawn by picture with the seed.

    evaluation: what `handocc evaluate` wrote about them, for the same units.

    Raises:
        ConfigError: the truth is what a network gave itself.
    """
    kept = [np.empty((0, 4 + len(names)))]
    measured = waiting = 0
    columns = ["key", "annotated_index", "sequence", "dataset", "status", ERROR]
    for unit, errors in read_errors(evaluation, units, columns):
        if DATASET in errors["dataset"].to_pylist():
            raise ConfigError(
                f"{unit.input}: holds pseudo-labels, which are no truth to learn from; leave it out"
            )
        errors = errors.filter(pc.and_(pc.equal(errors["status"], MEASURED), pc.is_valid(errors[ERROR])))
        rows = _rows(read_table(predictions, "annotations", parts[unit.unit_id]), errors, unit, names, seed)
        measured += len(rows)
        kept.append(rows)
        waiting += len(rows)
        if waiting > most:
            kept, waiting = [_first(kept, most)], 0
    hands = _first(kept, most)
    # A picture's hands have one lot, and a sequence's one fold. Dealt in turn, few sequences fill all folds.
    dealt = np.unique(hands[:, 1], return_inverse=True)[1] % folds
    return GradedHands(hands[:, 4:], hands[:, 2], hands[:, 3], dealt.astype(np.int64), measured)


def _rows(
    annotations: pa.Table, errors: pa.Table, unit: Unit, names: Sequence[str], seed: int
) -> NDArray[np.float64]:
    """Returns two lots, error, peak mass and features of each measured hand of a unit."""
    keys = errors["key"].to_pylist()
    hands = annotations.take(rows_of(annotations, keys, errors["annotated_index"].to_pylist()))
    sequences = errors["sequence"].to_pylist()
    source = storage.name_of(unit.input)
    lots = np.array(
        [
            (_lot(f"{seed}#{source}#{key}"), _lot(f"{seed}#{sequence or f'{source}#{key}'}#fold"))
            for key, sequence in zip(keys, sequences, strict=True)
        ]
    ).reshape(-1, 2)
    about = np.stack([errors[ERROR].to_numpy(), peak_mass(hands)], axis=1)
    return np.concatenate([lots, about, features_of(hands, names)], axis=1)


def _lot(name: str) -> float:
    """Returns a number in [0, 1) that a name draws."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _first(kept: Sequence[NDArray[np.float64]], most: int) -> NDArray[np.float64]:
    rows = np.concatenate(kept)
    # By all columns: hands of one picture have the same lots.
    return rows[np.lexsort(rows.T[::-1])][:most]
