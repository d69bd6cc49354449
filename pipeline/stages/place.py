"""The third stage: puts hands into camera space, where a camera is known or assumed."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.camera import NO_CAMERA, place_hands
from pipeline.columns import numbers
from pipeline.records import ANNOTATIONS, UnitRecord


@dataclass(frozen=True)
class Place:
    """Fills in `translation`; a hand whose joints say nothing of its place keeps null, and the ledger says why."""

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        hands, ledger = record.hands, record.ledger
        if hands.num_rows:
            hands, problems = place(hands)
            ledger = _noted(ledger, hands, problems)
        return replace(record, hands=hands, ledger=ledger).timed("place", time.perf_counter() - started)


def place(hands: pa.Table) -> tuple[pa.Table, list[str | None]]:
    """Returns ANNOTATIONS rows with `translation`, and why a row that has a camera has none."""
    cameras = hands.column("camera").to_pylist()
    placed = place_hands(
        numbers(hands, "joints", 21, 3),
        numbers(hands, "joints_2d", 21, 2),
        # Unsure joints are pulled to the middle of where they may be: believed in full, they make hands small and far.
        np.square(numbers(hands, "joint_confidence", 21)),
        np.array([[np.nan] * 4 if camera is None else camera for camera in cameras], np.float64),
    )
    field = ANNOTATIONS.field("translation")
    rows = [
        translation.tolist() if problem is None else None
        for translation, problem in zip(placed.translation, placed.problem, strict=True)
    ]
    hands = hands.set_column(hands.schema.get_field_index(field.name), field, pa.array(rows, field.type))
    return hands, [None if problem == NO_CAMERA else problem for problem in placed.problem]


def _noted(ledger: pa.Table, hands: pa.Table, problems: list[str | None]) -> pa.Table:
    """Says in the ledger which annotated hands have a camera and no place before it."""
    if not any(problems):
        return ledger
    place_columns = ("key", "frame_index", "hand_index")
    names = zip(*(hands.column(name).to_pylist() for name in place_columns), strict=True)
    problem_of = dict(zip(names, problems, strict=True))
    entries = ledger.to_pylist()
    for entry in entries:
        problem = problem_of.get(tuple(entry[name] for name in place_columns))
        if problem is not None:
            entry |= {"stage": "place", "reason": f"no translation: {problem}"}
    return pa.Table.from_pylist(entries, schema=ledger.schema)
