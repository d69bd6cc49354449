"""Synthetic films of one or two moving hands, and their truth: units of a set that is a function of its seed."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.mano.asset import HandModel, Side
from pipeline import storage
from pipeline.flow import Flow, Stage
from pipeline.records import ANNOTATIONS, Counts, Unit, UnitRecord
from pipeline.sinks.parts import write_part
from pipeline.synthesis.backgrounds import background
from pipeline.synthesis.dress import dress
from pipeline.synthesis.hands import HandKit
from pipeline.synthesis.labels import Label, hand_label
from pipeline.synthesis.motion import MovingHand, cross, move
from pipeline.synthesis.sample import photograph
from pipeline.synthesis.shading import GAMMA, draw, random_light
from pipeline.synthesis.surfaces import Surface

Floats = NDArray[np.floating]

RATE = 30  # frames a second
FILMS, TRUTH_FOLDER, BOXES = "films", "truth", "boxes.parquet"
# MPEG-4 at its finest step: x264 gave two files for the same pictures about once in fifty times.
_CODEC, _CODEC_OPTIONS = "mpeg4", {"qmin": "2", "qmax": "2"}
NEAR_M, FAR_M = 0.42, 0.62  # depths of the two hands: one before the other, never in it

TRUTH = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("hand_index", pa.int32(), nullable=False),
        pa.field("hand", pa.int32(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        *(ANNOTATIONS.field(name) for name in ("bbox", "global_orient", "hand_pose", "betas", "joints_2d")),
        pa.field("joints_3d", ANNOTATIONS.field("joints").type, nullable=False),
        pa.field("translation", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("visible", pa.list_(pa.int8(), 21), nullable=False),
        pa.field("camera", pa.list_(pa.float32(), 4), nullable=False),
    ]
)
"""One row per hand and frame; joints_3d and translation (the wrist) in camera space, metres. hand: who it is, the same
in all frames. hand_index: its place among the boxes of its frame, which is random, as a detector's is."""


@dataclass(frozen=True)
class FilmSpec:
    """What the films of a set have in common; every other film shows two hands, which cross."""

    size: int = 192  # pixels, square, even
    frames: int = 75


def plan_films(output: str, *, count: int, seed: int, frames: int) -> list[Unit]:
    """Returns a unit per film, whose samples are its frames."""
    return [
        Unit(f"film-{seed}-{number:06d}", "synthetic", output, 0, frames, size=0, version=str(number))
        for number in range(count)
    ]


def truth_uri(output: str, unit: Unit) -> str:
    """Returns where a film's truth lies; its existence is the commit, the film is there before."""
    return storage.join(output, TRUTH_FOLDER, f"{unit.unit_id}.parquet")


def film_uri(output: str, unit: Unit) -> str:
    return storage.join(output, FILMS, f"{unit.unit_id}.mp4")


@dataclass(frozen=True)
class FilmMaker:
    """What every worker makes its `MakeFilm` of."""

    output: str
    seed: int
    spec: FilmSpec
    hand_model: HandModel

    def __call__(self) -> "MakeFilm":
        return MakeFilm(self)


class MakeFilm:
    """Draws a film's frames and writes film and truth."""

    def __init__(self, maker: FilmMaker) -> None:
        self.maker, self.kit = maker, HandKit(maker.hand_model)

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit, maker = record.unit, self.maker
        pictures, rows = [], list[dict[str, Any]]()
        for picture, of_frame in shoot(maker.seed, int(unit.version), maker.spec, self.kit):
            pictures.append(picture)
            rows += [{"key": f"{unit.unit_id}.mp4", **row} for row in of_frame]
        storage.put(film_uri(maker.output, unit), encode_film(pictures))
        metadata = {"hand_model": maker.hand_model.name, "units": "metres, radians, pixels, seconds"}
        write_part(truth_uri(maker.output, unit), pa.Table.from_pylist(rows, schema=TRUTH), metadata)
        counts = Counts(
            samples=len(pictures),
            samples_with_hands=len(pictures),
            hands=len(rows),
            hands_annotated=len(rows),
        )
        return replace(record, counts=counts).timed("synthesize", time.perf_counter() - started)


def films_flow(maker: FilmMaker) -> Flow:
    """Returns the one stage that makes films."""
    return Flow("synthesize", (Stage("synthesize", maker, cpus=1.0),))


def missing_films(output: str, units: Sequence[Unit]) -> list[Unit]:
    """Returns the films that are not there yet."""
    there = {file.uri for file in storage.list_files(storage.join(output, TRUTH_FOLDER))}
    return [unit for unit in units if truth_uri(output, unit) not in there]


def write_boxes(output: str, units: Sequence[Unit]) -> str:
    """Writes the boxes of all films as one table, for `annotate OUTPUT/films --boxes`; returns its URI."""
    columns = ["key", "frame_index", "hand_index", "bbox", "side", "camera"]
    tables = [
        pq.read_table(io.BytesIO(storage.read(truth_uri(output, unit))), columns=columns) for unit in units
    ]
    uri = storage.join(output, BOXES)
    made = pa.concat_tables(table.replace_schema_metadata(None) for table in tables)
    # Annotations by a table are refused when it was written since, with whatever in it.
    if not _holds(uri, made):
        write_part(uri, made, {})
    return uri


def _holds(uri: str, table: pa.Table) -> bool:
    try:
        return bool(pq.read_table(io.BytesIO(storage.read(uri))).equals(table))
    except (FileNotFoundError, pa.ArrowException):
        return False


def shoot(
    seed: int, number: int, spec: FilmSpec, kit: HandKit
) -> Iterator[tuple[NDArray[np.uint8], list[dict[str, Any]]]]:
    """Yields each frame of film `number` of the set `seed`: its RGB picture, and rows of TRUTH without the key."""
    rng = np.random.default_rng([seed, number, 1])
    times = np.arange(spec.frames) / RATE
    focal = rng.uniform(1.1, 1.4) * spec.size
    camera = np.array([focal, focal, (spec.size - 1) / 2, (spec.size - 1) / 2])
    hands = _cast(rng, number, times, kit, spec.size / focal)
    light, behind = random_light(rng), background(rng, spec.size, spec.size) ** GAMMA
    seeds = rng.integers(1 << 31, size=len(hands) + 1)
    for frame, seconds in enumerate(times):
        posed = [hand.at(kit, frame) for hand in hands]
        surfaces, owners = list[Surface](), list[int]()
        for one, hand, own_seed in zip(posed, hands, seeds[1:], strict=True):
            owners.append(len(surfaces))
            # The same draws in every frame: a hand keeps its skin and its sleeve.
            worn = dress(np.random.default_rng(own_seed), kit, one)
            surfaces += [surface.moved(np.eye(3), hand.wrist[frame]) for surface in worn]
        drawing = draw(surfaces, camera, light, height=spec.size, width=spec.size)
        linear = drawing.colour + behind * (1 - drawing.alpha[..., None])
        picture = photograph(np.random.default_rng(seeds[0]), linear)
        rows = []
        for index, who in enumerate(rng.permutation(len(hands)).tolist()):
            label = hand_label(kit, posed[who], hands[who].wrist[frame], camera, drawing, owners[who], False)
            rows.append({**_row(label, frame, float(seconds), index, who), "camera": camera})
        yield picture, rows


def _cast(
    rng: np.random.Generator, number: int, times: Floats, kit: HandKit, width_per_m: float
) -> list[MovingHand]:
    """The hands of a film: one, or two that change sides; of every other such pair both are of one side."""
    side: Side = "left" if rng.random() < 0.5 else "right"
    other: Side = "right" if side == "left" else "left"
    middle = np.array([0.0, 0.06, 0.5])  # of a hand that points upwards: its wrist lies below its centre

    def anywhere(_target: int) -> Floats:
        return middle + rng.uniform(-1, 1, 3) * (0.10, 0.07, 0.08)

    if number % 2 == 0:
        return [move(rng, kit, side, times, anywhere)]
    pair: tuple[Side, Side] = (side, side) if number % 4 == 3 else (side, other)
    hands = []
    for one, depth, way in zip(pair, (NEAR_M, FAR_M), (1, -1), strict=True):
        reach = 0.28 * depth * width_per_m
        start = np.array([-way * reach, rng.uniform(0.01, 0.08), depth])
        end = np.array([way * reach, rng.uniform(0.01, 0.08), depth])
        hands.append(cross(move(rng, kit, one, times, anywhere), times, start, end))
    return hands


def _row(label: Label, frame: int, seconds: float, index: int, who: int) -> dict[str, Any]:
    row = {name: label[name] for name in ("side", "bbox", "joints_3d", "joints_2d", "visible")}
    row |= {"frame_index": frame, "timestamp": seconds, "hand_index": index, "hand": who}
    return {**row, **label["mano"]}


def encode_film(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    """Returns RGB pictures of one even size as an MP4 (MPEG-4 part 2); the same bytes for the same pictures."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as film:
        track = film.add_stream(_CODEC, rate=RATE, options=_CODEC_OPTIONS)
        assert isinstance(track, av.VideoStream)
        track.height, track.width = pictures[0].shape[:2]
        track.pix_fmt = "yuv420p"
        track.codec_context.gop_size = RATE
        track.codec_context.time_base = Fraction(1, RATE)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            film.mux(track.encode(frame))
        film.mux(track.encode())
    return stream.getvalue()
