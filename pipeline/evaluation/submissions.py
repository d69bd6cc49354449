"""Predictions as the benchmarks' own evaluations read them.

HO-3D and FreiHAND take `pred.json` in a zip: [joints of all pictures, vertices of all pictures], metres, camera
space (github.com/shreyashampali/ho3d, pred.py and eval.py; github.com/lmb-freiburg/freihand). DexYCB takes text: a
line per picture, its index and 63 numbers in millimetres (github.com/NVlabs/dex-ycb-toolkit, hpe_eval.py).
"""

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.mano.joints import HO3D_FROM_SIMPLE
from pipeline import storage
from pipeline.columns import numbers
from pipeline.evaluation.errors import REJECTED, UNLABELLED
from pipeline.evaluation.hands import Floats, HandPoser, predicted_vertices, rows_of, translations
from pipeline.evaluation.summary import read_errors
from pipeline.records import Unit
from pipeline.sinks.parts import Part, read_table

_OPENGL: Final = np.array([1.0, -1.0, -1.0])
_DECIMALS: Final = 7  # of metres
_UNITS_KEPT: Final = 4
_COLUMNS: Final = ["key", "annotated_index", "status", "index", "root"]
# What a zip says of its members' time is none of the result's business.
_NO_TIME: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Format:
    """What a benchmark takes. order: its joints by ours; opengl: its axes; pictures: how many it tests, if known."""

    file: str
    meshes: bool
    pictures: int | None = None
    order: tuple[int, ...] = tuple(range(21))
    opengl: bool = False


# How many pictures there are: ho3d, pred.py; freihand, README.
FORMATS: Final[dict[str, Format]] = {
    "ho3d-v2": Format("pred.zip", True, 11524, HO3D_FROM_SIMPLE, opengl=True),
    "ho3d-v3": Format("pred.zip", True, 20137, HO3D_FROM_SIMPLE, opengl=True),
    "freihand": Format("pred.zip", True, 3960),
    "dexycb": Format("pred.txt", False),
}


@dataclass(frozen=True)
class Submission:
    """A written file. empty: pictures without a prediction, whose hand is a point, at the true wrist if that is known.

    unplaced: predictions of which nothing says where in camera space they are; their wrist is the origin.
    """

    uri: str
    pictures: int
    empty: int
    unplaced: int


class NoSubmission(Exception):  # noqa: N818
    """The labels cannot be put into a benchmark's order; the message says why."""


@dataclass(frozen=True)
class _UnitHands:
    """The hands of a unit, by the rows of its errors, in camera space; metres, OpenCV's axes, the simple order."""

    joints: Floats
    vertices: Floats | None
    predicted: NDArray[np.bool_]
    placed: NDArray[np.bool_]


_Place = tuple[int, int, int]
_Read = Callable[[int], _UnitHands]


def write_submission(
    output: str,
    dataset: str,
    *,
    predictions: str,
    units: Sequence[Unit],
    parts: Mapping[str, Part],
    poser: HandPoser | None,
) -> Submission:
    """Writes `OUTPUT/submission/…` for a dataset of `FORMATS`, from stored annotations, a few units at a time.

    A hand stands where the label's wrist is, as in the authors' evaluation (HO-3D gives the wrist of its test
    pictures), or else where its annotation's translation puts it.

    Raises:
        NoSubmission: labels without `index`, an index that comes twice, no vertices where they are needed.
    """
    form = FORMATS[dataset]
    places = _places(output, units, form)
    known: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}

    @lru_cache(_UNITS_KEPT)
    def read(number: int) -> _UnitHands:
        ((_, rows),) = read_errors(output, [units[number]], _COLUMNS)
        annotations = read_table(predictions, "annotations", parts[units[number].unit_id])
        hands = _unit_hands(rows.to_pylist(), annotations, poser, form)
        known[number] = hands.predicted, hands.placed
        return hands

    with tempfile.TemporaryFile() as file:
        if form.meshes:
            _write_json(file, places, read, form)
        else:
            _write_text(file, places, read)
        file.seek(0)
        uri = storage.join(output, "submission", form.file)
        storage.put(uri, file.read())
    there = [(known[number], row) for _, number, row in places if number >= 0]
    empty = len(places) - sum(bool(predicted[row]) for (predicted, _), row in there)
    unplaced = sum(bool(predicted[row] and not placed[row]) for (predicted, placed), row in there)
    return Submission(uri, len(places), empty, unplaced)


def _places(output: str, units: Sequence[Unit], form: Format) -> list[_Place]:
    """Index, unit and row of every picture in the benchmark's order; unit -1 for an index that no hand has."""
    place_of: dict[int, tuple[int, int]] = {}
    for number, (_, rows) in enumerate(read_errors(output, units, _COLUMNS)):
        columns = (rows[name].to_pylist() for name in ("index", "status", "key"))
        for row, (index, status, key) in enumerate(zip(*columns, strict=True)):
            if status in (REJECTED, UNLABELLED):
                continue
            if index is None:
                raise NoSubmission(f"the label of {key} has no `index`, its place in the benchmark's order")
            if index in place_of:
                raise NoSubmission(f"two hands have the index {index}, the second is that of {key}")
            place_of[index] = (number, row)
    if not place_of:
        raise NoSubmission("there is no hand")
    if form.pictures is not None and max(place_of) >= form.pictures:
        raise NoSubmission(
            f"a hand has the index {max(place_of)}, the benchmark has {form.pictures} pictures"
        )
    # A list of all pictures has no gaps; a line of text names its picture.
    indices: Iterable[int] = range(max(place_of) + 1) if form.meshes else sorted(place_of)
    return [(index, *place_of.get(index, (-1, -1))) for index in indices]


def _unit_hands(
    rows: Sequence[Mapping[str, Any]], annotations: pa.Table, poser: HandPoser | None, form: Format
) -> _UnitHands:
    vertices = predicted_vertices(annotations, poser) if form.meshes else None
    if form.meshes and vertices is None:
        raise NoSubmission(
            "the annotations hold no vertices, and their hand model is not at hand: give --mano"
        )
    joints, wrists = numbers(annotations, "joints", 21, 3), translations(annotations)
    count = len(rows)
    found = rows_of(annotations, [row["key"] for row in rows], [row["annotated_index"] for row in rows])
    predicted = found >= 0
    wrist = np.array([[np.nan] * 3 if row["root"] is None else row["root"] for row in rows]).reshape(-1, 3)
    own = np.full((count, 3), np.nan)
    own[predicted] = wrists[found[predicted]]
    wrist = np.where(np.isnan(wrist), own, wrist)
    placed = ~np.isnan(wrist).any(axis=1)
    wrist = np.nan_to_num(wrist)[:, None]

    def in_camera_space(points: Floats) -> Floats:
        put = np.zeros((count, *points.shape[1:]))
        put[predicted] = points[found[predicted]]
        put += wrist
        return put

    meshes = None if vertices is None else in_camera_space(vertices)
    return _UnitHands(in_camera_space(joints), meshes, predicted, placed)


def _write_json(file: IO[bytes], places: Sequence[_Place], read: _Read, form: Format) -> None:
    def joints(hands: _UnitHands, row: int) -> Floats:
        ordered: Floats = hands.joints[row][list(form.order)]
        return ordered

    def vertices(hands: _UnitHands, row: int) -> Floats:
        assert hands.vertices is not None
        mesh: Floats = hands.vertices[row]
        return mesh

    member = zipfile.ZipInfo("pred.json", _NO_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w") as archive, archive.open(member, "w", force_zip64=True) as stream:
        stream.write(b"[")
        for opening, points, count in ((b"[", joints, 21), (b",[", vertices, 778)):
            stream.write(opening)
            for text in _as_json(places, read, points, count, form):
                stream.write(text)
            stream.write(b"]")
        stream.write(b"]")


def _as_json(
    places: Sequence[_Place],
    read: _Read,
    points: Callable[[_UnitHands, int], Floats],
    count: int,
    form: Format,
) -> Iterator[bytes]:
    axes = _OPENGL if form.opengl else np.ones(3)
    for place, (_, number, row) in enumerate(places):
        of_hand = points(read(number), row) if number >= 0 else np.zeros((count, 3))
        # Adding 0 makes a positive zero of a negative one.
        listed = (np.round(of_hand * axes, _DECIMALS) + 0.0).tolist()
        yield (b"," if place else b"") + json.dumps(listed, separators=(",", ":")).encode()


def _write_text(file: IO[bytes], places: Sequence[_Place], read: _Read) -> None:
    for index, number, row in places:
        millimetres = 1000 * read(number).joints[row].reshape(-1)
        file.write((",".join([str(index), *(f"{value:.4f}" for value in millimetres)]) + "\n").encode())
