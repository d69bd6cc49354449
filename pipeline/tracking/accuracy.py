"""Tracks against the truth of synthetic films: what smoothing does to errors and to jitter, and who was mistaken.

n hands; metres, wrist at the origin.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline import storage
from pipeline.columns import numbers
from pipeline.errors import ConfigError
from pipeline.evaluation.hands import translations
from pipeline.metrics import PROTOCOLS, sample_errors
from pipeline.records import Unit
from pipeline.tracking.smoothing import Floats
from pipeline.tracking.tracks import MILLIMETRES, bends

METRICS = {
    "mpjpe_mm": "joints",
    "pa_mpjpe_mm": "joints after alignment",
    "joints_2d_px": "joints in the picture",
    "wrist_mm": "wrist in camera space",
    "acceleration_mm_per_frame2": "acceleration",
    "acceleration_m_per_s2": "acceleration",
    "filled_mpjpe_mm": "joints, filled rows",
    "filled_pa_mpjpe_mm": "joints after alignment, filled rows",
}
RAW, SMOOTHED = "raw", "smoothed"
SAME_BOX_PX = 1.0


@dataclass
class Accuracy:
    """Sums of errors by state (raw, smoothed) and metric, with how many each is of; and mistaken identities.

    mistaken: tracked hands that are another one than most of their track. hands: true ones; tracks: found ones.
    """

    sums: dict[tuple[str, str], float] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    hands: int = 0
    tracks: int = 0
    mistaken: int = 0

    def __add__(self, other: "Accuracy") -> "Accuracy":
        return Accuracy(
            {
                key: self.sums.get(key, 0.0) + other.sums.get(key, 0.0)
                for key in sorted({*self.sums, *other.sums})
            },
            self.counts + other.counts,
            self.hands + other.hands,
            self.tracks + other.tracks,
            self.mistaken + other.mistaken,
        )

    def note(self, state: str, metric: str, values: Floats) -> None:
        """Adds the values that are numbers."""
        known = values[np.isfinite(values)]
        if len(known):
            self.sums[state, metric] = self.sums.get((state, metric), 0.0) + float(known.sum())
            self.counts[state, metric] += len(known)

    def mean(self, state: str, metric: str) -> float | None:
        """Returns the mean of a metric, None where nothing was measured."""
        count = self.counts[state, metric]
        return self.sums[state, metric] / count if count else None

    def plain(self) -> dict[str, Any]:
        """Returns what tracks.json holds."""
        means = {
            metric: {
                "of": self.counts[SMOOTHED, metric],
                **{
                    state: float(f"{mean:.6g}")
                    for state in (RAW, SMOOTHED)
                    if (mean := self.mean(state, metric)) is not None
                },
            }
            for metric in METRICS
            if self.counts[SMOOTHED, metric]
        }
        return {"hands": self.hands, "tracks": self.tracks, "mistaken": self.mistaken, "errors": means}

    def lines(self) -> list[str]:
        """Returns lines for a person."""
        lines = [
            f"truth: {self.hands} hands, {self.tracks} tracks; {self.mistaken} tracked hands are not their track's"
        ]
        for metric, what in METRICS.items():
            raw, smoothed = self.mean(RAW, metric), self.mean(SMOOTHED, metric)
            if smoothed is not None:
                before = "" if raw is None else f"{raw:9.3f} raw, "
                lines.append(f"  {metric:<27} {before}{smoothed:9.3f} smoothed   ({what})")
        return lines


def find_truth(folder: str, films: Sequence[Unit]) -> dict[str, str]:
    """Returns where the truth of each film lies, by the film's unit.

    Raises:
        ConfigError: a film has none there.
    """
    there = {storage.name_of(file.uri): file.uri for file in storage.list_files(folder)}
    found = {}
    for film in films:
        name = storage.name_of(film.input).rsplit(".", 1)[0] + ".parquet"
        if name not in there:
            raise ConfigError(f"--truth {folder}: holds no {name}, the truth of {film.input}")
        found[film.unit_id] = there[name]
    return found


def read_truth(uri: str) -> pa.Table:
    """Returns the true hands of a film, `pipeline.synthesis.films.TRUTH`."""
    return pq.read_table(io.BytesIO(storage.read(uri)))


def measure_film(hands: pa.Table, tracks: pa.Table, truth: pa.Table) -> Accuracy:
    """Returns the errors of a film's annotations that are tracked, and of their tracks.

    A hand is known by frame and index.

    Raises:
        ConfigError: the annotations' boxes are not those of the truth.
    """
    total = Accuracy(hands=len(set(truth["hand"].to_pylist())))
    places = zip(truth["frame_index"].to_pylist(), truth["hand_index"].to_pylist(), strict=True)
    true_row = {place: row for row, place in enumerate(places)}
    _require_boxes(hands, truth, true_row)
    who = truth["hand"].to_pylist()
    by_frame = {
        place: row for row, place in enumerate(zip(truth["frame_index"].to_pylist(), who, strict=True))
    }
    annotated = {name: row for row, name in enumerate(hands["instance_id"].to_pylist())}
    frames, indices = hands["frame_index"].to_pylist(), hands["hand_index"].to_pylist()

    ids = tracks["track_id"].to_pylist()
    starts = [0, *(row for row in range(1, len(ids)) if ids[row] != ids[row - 1]), len(ids)]
    for first, last in pairwise(starts):
        if first == last:
            continue
        track = tracks.slice(first, last - first)
        raw_rows = [None if name is None else annotated[name] for name in track["instance_id"].to_pylist()]
        own = [None if row is None else true_row.get((frames[row], indices[row])) for row in raw_rows]
        known = Counter(who[row] for row in own if row is not None)
        if not known:
            continue
        hand, count = known.most_common(1)[0]
        total.tracks += 1
        total.mistaken += sum(known.values()) - count
        # In a filled row the track's hand is meant; it may have no truth there, where it left the picture.
        meant = [
            by_frame.get((frame, hand)) if row is None else there
            for row, there, frame in zip(raw_rows, own, track["frame_index"].to_pylist(), strict=True)
        ]
        _measure_track(total, hands, track, truth, raw_rows, meant)
    return total


def _require_boxes(hands: pa.Table, truth: pa.Table, true_row: Mapping[tuple[int, int], int]) -> None:
    places = zip(hands["frame_index"].to_pylist(), hands["hand_index"].to_pylist(), strict=True)
    pairs = [(row, true_row[place]) for row, place in enumerate(places) if place in true_row]
    own, true = np.array(pairs, np.int64).reshape(-1, 2).T
    apart = np.abs(numbers(hands, "bbox", 4)[own] - numbers(truth, "bbox", 4)[true])
    if (apart > SAME_BOX_PX).any():
        raise ConfigError(
            f"--truth: knows hands by their index in its boxes.parquet, and the boxes of {hands['source'][0]} are "
            "others; annotate with --boxes and that table"
        )


def _measure_track(
    total: Accuracy,
    hands: pa.Table,
    track: pa.Table,
    truth: pa.Table,
    raw_rows: Sequence[int | None],
    meant: Sequence[int | None],
) -> None:
    count = track.num_rows
    measured = np.array([row is not None for row in meant])
    seen = measured & np.array([row is not None for row in raw_rows])
    true_joints, true_2d, true_wrist = (
        np.full((count, *shape), np.nan) for shape in ((21, 3), (21, 2), (3,))
    )
    rows = truth.take([row for row in meant if row is not None])
    camera_space = numbers(rows, "joints_3d", 21, 3)
    true_joints[measured] = camera_space - camera_space[:, :1]
    true_wrist[measured] = camera_space[:, 0]
    true_2d[measured] = numbers(rows, "joints_2d", 21, 2)
    raw = hands.take([row for row, is_seen in zip(raw_rows, seen, strict=True) if is_seen])
    step = np.diff(track["timestamp"].to_numpy())

    for state, table, own in ((RAW, raw, seen), (SMOOTHED, track, np.ones(count, np.bool_))):
        joints, joints_2d, wrist = (np.full((count, *shape), np.nan) for shape in ((21, 3), (21, 2), (3,)))
        joints[own], joints_2d[own] = numbers(table, "joints", 21, 3), numbers(table, "joints_2d", 21, 2)
        wrist[own] = translations(table)
        for rows_of, prefix in ((seen, ""), (measured & ~seen, "filled_")):
            if not rows_of.any() or (state == RAW and prefix):
                continue
            errors = sample_errors(
                PROTOCOLS["shards"],
                joints=torch.from_numpy(joints[rows_of]),
                true_joints=torch.from_numpy(true_joints[rows_of]),
            )
            for name in ("mpjpe_mm", "pa_mpjpe_mm"):
                total.note(state, prefix + name, errors[name].numpy())
        pixels = np.linalg.norm(joints_2d - true_2d, axis=-1).mean(axis=1)
        total.note(state, "joints_2d_px", pixels[seen])
        total.note(state, "wrist_mm", MILLIMETRES * np.linalg.norm((wrist - true_wrist)[seen], axis=-1))
        # The difference bends as much as the accelerations of both differ.
        if count > 2:
            bend = np.where(seen[:-2] & seen[1:-1] & seen[2:], bends(joints - true_joints), np.nan)
            total.note(state, "acceleration_mm_per_frame2", bend)
            steady = np.abs(step[1:] - step[:-1]) < 0.01 * step[:-1]
            metres = bend / MILLIMETRES / np.maximum(step[:-1], 1e-9) ** 2
            total.note(state, "acceleration_m_per_s2", np.where(steady, metres, np.nan))
