"""Outputs of annotate for synthetic films, whose hands are the truth's or err in a stated way, without a network."""

import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.synthetic import synthetic_hand
from pipeline.columns import fixed_lists, numbers
from pipeline.evaluation.hands import HandPoser
from pipeline.inputs import find_inputs
from pipeline.plan import load_keys, store_keys, store_units
from pipeline.records import ANNOTATIONS, LEDGER, Counts, Unit
from pipeline.sinks.parts import part_uri, write_part
from pipeline.sources import SOURCES
from pipeline.sources.video_index import Frame
from pipeline.units import cut

Floats = NDArray[np.float64]
FINGERPRINT = "f" * 64


@dataclass(frozen=True)
class Noise:
    """What annotations err by: an error of each frame, and one that drifts over `drift_s`; standard deviations.

    turns: of global_orient and each finger joint, radians; betas; pixels of joints_2d. lost, flipped: shares of hands
    that no box was found for, and whose box has the other side.
    """

    turns: float = 0.0
    turns_drift: float = 0.0
    betas: float = 0.0
    pixels: float = 0.0
    lost: float = 0.0
    flipped: float = 0.0
    drift_s: float = 1.0


def annotate(
    films: Path, output: Path, noise: Noise | None = None, *, rows: int = 20, leave: Collection[int] = ()
) -> Path:
    """Writes an output for `films/films` from `films/truth`; units of numbers in `leave` are not annotated."""
    inputs, _ = find_inputs([str(films / "films")])
    units: list[Unit] = []
    for number, film in enumerate(inputs):
        units += store_keys(str(output), f"{number:06d}", cut(film, SOURCES["video"].probe(film), rows))
    store_units(str(output), 0, units)
    hand_model = synthetic_hand()
    job = {
        "command": "annotate",
        "content": {"boxes": "table"},
        "fingerprint": FINGERPRINT,
        "conventions": {"schema_version": "1", "hand_model": hand_model.name, "left_model": "mirrored_right"},
        "weights": {"trained": True, "source": "truth", "sha256": "0" * 64},
        "hand_model": hand_model.name,
        "plan": {"given_up": []},
    }
    (output / "job.json").write_text(json.dumps(job))
    poser = HandPoser(hand_model)
    for film in inputs:
        truth = pq.read_table(films / "truth" / Path(film.name).with_suffix(".parquet"))
        hands = _erring(truth, noise or Noise(), poser, film.uri)
        for number, unit in enumerate(units):
            if unit.input == film.uri and number not in leave:
                write(output, unit, hands)
    return output


def write(output: Path, unit: Unit, hands: pa.Table) -> None:
    """Writes a unit's parts: those of the hands that are seen in its frames, and a ledger of all its frames."""
    frames = [Frame.from_key(key).frame_index for key in load_keys(str(output), unit)]
    inside = [row for row, frame in enumerate(hands["frame_index"].to_pylist()) if frame in set(frames)]
    table = hands.take(inside)
    times = SOURCES["video"].probe(find_inputs([unit.input])[0][0]).timestamps
    seen = table.select(["source", "key", "frame_index", "timestamp", "hand_index"]).to_pylist()
    without = set(frames) - {row["frame_index"] for row in seen}
    ledger = [row | {"status": "annotated"} for row in seen]
    ledger += [
        {
            "source": unit.input,
            "key": unit.name,
            "frame_index": frame,
            "timestamp": times[frame],
            "status": "no_hand",
        }
        for frame in sorted(without)
    ]
    entries = pa.Table.from_pylist(ledger, schema=LEDGER)
    metadata = {
        "fingerprint": FINGERPRINT,
        "unit_id": unit.unit_id,
        "unit_version": unit.version,
        "counts": Counts.of_ledger(entries).to_json(),
    }
    write_part(part_uri(str(output), "ledger", unit.unit_id), entries, metadata)
    write_part(part_uri(str(output), "annotations", unit.unit_id), table, metadata)


def _erring(truth: pa.Table, noise: Noise, poser: HandPoser, source: str) -> pa.Table:
    """Returns annotations of the true hands, erring; lost ones are not there."""
    rng = np.random.default_rng(0)
    count = truth.num_rows
    times, who = truth["timestamp"].to_numpy(), truth["hand"].to_numpy()
    turns = np.concatenate(
        [numbers(truth, "global_orient", 1, 3), numbers(truth, "hand_pose", 15, 3)], axis=1
    )
    error = rng.normal(0, noise.turns, (count, 16, 3))
    for hand in np.unique(who):
        # Knots of a drift, drift_s apart.
        knots = np.arange(0, times.max() + 2 * noise.drift_s, noise.drift_s)
        drift = rng.normal(0, noise.turns_drift, (len(knots), 48))
        own = who == hand
        error[own] += np.stack([np.interp(times[own], knots, column) for column in drift.T], axis=1).reshape(
            -1, 16, 3
        )
    composed = Rotation.from_rotvec(turns.reshape(-1, 3)) * Rotation.from_rotvec(error.reshape(-1, 3))
    turns = composed.as_rotvec().reshape(-1, 16, 3)
    betas = numbers(truth, "betas", 10) + rng.normal(0, noise.betas, (count, 10))
    left = np.array([side == "left" for side in truth["side"].to_pylist()])
    left ^= rng.random(count) < noise.flipped
    joints = poser(turns, betas, left).joints
    points = numbers(truth, "joints_2d", 21, 2) + rng.normal(0, noise.pixels, (count, 21, 2))
    lists: dict[str, Any] = {
        "bbox": numbers(truth, "bbox", 4),
        "global_orient": turns[:, 0],
        "hand_pose": turns[:, 1:],
        "betas": betas,
        "joints": joints,
        "joints_2d": points,
        "joint_confidence": np.full((count, 21), 0.8),
    }
    frame, index = truth["frame_index"].to_pylist(), truth["hand_index"].to_pylist()
    plain: dict[str, list[Any]] = {
        "instance_id": [f"{source}#{a}#{b}" for a, b in zip(frame, index, strict=True)],
        "source": [source] * count,
        "side": ["left" if one else "right" for one in left],
        "side_source": ["given"] * count,
        "image_width": [192] * count,
        "image_height": [192] * count,
        "bbox_source": ["table"] * count,
        "confidence": [0.8] * count,
    }
    arrays = []
    for item in ANNOTATIONS:
        if item.name == "vertices":
            continue
        if item.name in lists:
            arrays.append(fixed_lists(lists[item.name], item.type))
        elif item.name in plain:
            arrays.append(pa.array(plain[item.name], item.type))
        elif item.name in truth.column_names and item.name not in ("translation", "camera"):
            arrays.append(truth[item.name].combine_chunks().cast(item.type))
        else:
            arrays.append(pa.nulls(count, item.type))
    names = [item.name for item in ANNOTATIONS if item.name != "vertices"]
    kept = np.flatnonzero(rng.random(count) >= noise.lost)
    return pa.Table.from_arrays(arrays, names=names).take(kept)


def rows_of(output: Path) -> bytes:
    """Returns the bytes of all tracks of an output, in the order of their names."""
    stream = io.BytesIO()
    for path in sorted((output / "tracks").glob("*.parquet")):
        stream.write(path.read_bytes())
    return stream.getvalue()
