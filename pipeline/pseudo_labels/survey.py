"""The first pass: of every annotated hand the few numbers by which it is chosen, a part per annotated unit."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.columns import fixed_lists, numbers
from pipeline.errors import DataError
from pipeline.flow import Flow, Stage
from pipeline.pictures import pictures_of
from pipeline.pseudo_labels.picture_hash import hand_hash, perceptual_hash
from pipeline.pseudo_labels.thresholds import Thresholds
from pipeline.records import Counts, Unit, UnitRecord
from pipeline.sinks.parts import Part, footers, part_uri, read_files, read_table, write_part

FOLDER = "survey"
UNSURE, TOO_FAR_OFF, UNREADABLE = "low confidence", "large expected error", "unreadable picture"

SURVEY = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("picture", pa.int32(), nullable=False),
        pa.field("left", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("bbox", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("joints", pa.list_(pa.float32(), 63), nullable=False),
        pa.field("hand_pose", pa.list_(pa.float32(), 45), nullable=False),
        pa.field("picture_hash", pa.uint64(), nullable=False),
        pa.field("hand_hash", pa.uint64(), nullable=False),
        pa.field("rank", pa.uint64(), nullable=False),
        pa.field("dropped", pa.string()),
    ]
)
"""A row per annotated hand, in the annotations' order. row: its number there. picture: counts the unit's pictures that
have hands. rank: a random number that depends on the seed and the hand's name alone. dropped: why it is none."""


@dataclass(frozen=True)
class Survey:
    """What a survey is made of.

    predictions: the output of annotate, and `parts` its committed parts. hashes: whether pictures are read and hashed.
    """

    output: str
    predictions: str
    parts: Mapping[str, Part]
    thresholds: Thresholds
    seed: int
    hashes: bool
    fingerprint: str

    def __call__(self) -> "SurveyUnit":
        return SurveyUnit(self)


class SurveyUnit:
    """Surveys one annotated unit; its part, which is written once and whole, commits it."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit, survey = record.unit, self.survey
        part = survey.parts[unit.unit_id]
        table = read_table(survey.predictions, "annotations", part)
        dropped = _judged(table, survey.thresholds)
        hashes = np.zeros((table.num_rows, 2), np.uint64)
        if survey.hashes and None in dropped:
            self._hash(unit, table, dropped, hashes)
        picture = _pictures(table)
        rows = pa.Table.from_arrays(
            [
                pa.array(range(table.num_rows), pa.int32()),
                pa.array(picture, pa.int32()),
                pa.array([side == "left" for side in table["side"].to_pylist()], pa.bool_()),
                table["confidence"].combine_chunks(),
                *(fixed_lists(_vector(table, name), SURVEY.field(name).type) for name in _VECTORS),
                pa.array(hashes[:, 0]),
                pa.array(hashes[:, 1]),
                pa.array([rank(survey.seed, name) for name in table["instance_id"].to_pylist()], pa.uint64()),
                pa.array(dropped, pa.string()),
            ],
            schema=SURVEY,
        )
        about = _metadata(survey, unit, part) | {UNREADABLE: str(dropped.count(UNREADABLE))}
        write_part(part_uri(survey.output, FOLDER, unit.unit_id), rows, about)
        samples = max(picture, default=-1) + 1
        counts = Counts(
            samples=samples, samples_with_hands=samples, hands=table.num_rows, hands_annotated=table.num_rows
        )
        return replace(record, counts=counts).timed("survey", time.perf_counter() - started)

    def _hash(
        self, unit: Unit, table: pa.Table, dropped: list[str | None], hashes: NDArray[np.uint64]
    ) -> None:
        """Fills in the hashes of the hands that are still there; a picture that is not drops its hands."""
        boxes = _vector(table, "bbox")
        left = [number for number, reason in enumerate(dropped) if reason is None]
        for rows, image in pictures_of(self.survey.predictions, unit, table, left):
            if isinstance(image, DataError):
                for row in rows:
                    dropped[row] = UNREADABLE
                continue
            whole = perceptual_hash(image)
            for row in rows:
                hashes[row] = whole, hand_hash(image, boxes[row])


_VECTORS = ("bbox", "joints", "hand_pose")


def survey_flow(survey: Survey) -> Flow:
    """Returns the one stage that surveys units."""
    return Flow("survey", (Stage("survey", survey, cpus=1.0),))


def surveyed(survey: Survey, units: Sequence[Unit], *, retry_unreadable: bool = False) -> set[str]:
    """Returns the ids of the units whose survey is there: of this fingerprint and of these annotations.

    retry_unreadable: those with pictures that could not be read are not among them.
    """

    def is_current(unit: Unit, said: Mapping[str, str]) -> bool:
        if retry_unreadable and said.get(UNREADABLE) != "0":
            return False
        return _metadata(survey, unit, survey.parts[unit.unit_id]).items() <= said.items()

    return {unit.unit_id for unit, said in footers(survey.output, FOLDER, units) if is_current(unit, said)}


def read_surveys(
    output: str, units: Iterable[Unit], columns: Sequence[str]
) -> Iterator[tuple[Unit, pa.Table]]:
    """Yields each unit with some columns of its survey, in order, a few read ahead."""
    return read_files(output, FOLDER, units, columns)


def vectors(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Returns a column of fixed-size lists as (n, size)."""
    return numbers(table, name, SURVEY.field(name).type.list_size).astype(np.float32)


def rank(seed: int, instance_id: str) -> int:
    """Returns 64 random bits of a hand: the order in which hands are preferred where not all are taken."""
    text = f"{seed}\0{instance_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _judged(table: pa.Table, thresholds: Thresholds) -> list[str | None]:
    """Returns why each hand is dropped, None where it is not."""
    places = list(zip(*(table[name].to_pylist() for name in ("source", "key", "side")), strict=True))
    least = {place: thresholds.confidence(*place) for place in set(places)}
    confidence = table["confidence"].to_pylist()
    errors: list[Any] = [None] * table.num_rows
    if thresholds.max_error_mm is not None:
        errors = table["expected_error_mm"].to_pylist()
    found: list[str | None] = []
    for place, sure, error in zip(places, confidence, errors, strict=True):
        # What is not known to be good enough is not.
        if not sure >= least[place]:
            found.append(UNSURE)
        elif thresholds.max_error_mm is not None and not (error or np.inf) <= thresholds.max_error_mm:
            found.append(TOO_FAR_OFF)
        else:
            found.append(None)
    return found


def _pictures(table: pa.Table) -> list[int]:
    """Returns the number of each row's picture; the hands of one stand together."""
    numbers: dict[tuple[str, int | None], int] = {}
    places = zip(table["key"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    return [numbers.setdefault(place, len(numbers)) for place in places]


def _vector(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Returns an annotation's column as (n, size), of the size that it has in the survey."""
    return numbers(table, name, SURVEY.field(name).type.list_size)


def _metadata(survey: Survey, unit: Unit, part: Part) -> dict[str, str]:
    return {
        "fingerprint": survey.fingerprint,
        "unit_version": unit.version,
        "annotated": part.counts.to_json(),
    }
