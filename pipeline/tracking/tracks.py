"""The tracks of one film: linked, each of one side and one shape, smoothed, with short gaps filled.

N rows of annotations, n rows of one track; metres, radians, pixels, seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.columns import fixed_lists, numbers
from pipeline.evaluation.hands import HandPoser, translations
from pipeline.records import ANNOTATIONS
from pipeline.tracking.linking import Chain, Sightings, link, longest_step, vote
from pipeline.tracking.smoothing import (
    Floats,
    Ints,
    alone,
    between,
    robust_mean,
    rotations_between,
    smooth_points,
    smooth_rotations,
)

POSED_AT_ONCE = 4096
MILLIMETRES = 1000.0
# How far off its neighbours' line a place counts for nothing, unless six times the usual is farther.
OUTLIER_SIZES = 0.5  # of the hand in the picture, for its joints there
OUTLIER_M = 0.2  # for the wrist in camera space

# What of an annotation part tracking looks at.
COLUMNS = (
    *("instance_id", "source", "key", "frame_index", "timestamp", "hand_index", "side", "bbox", "bbox_score"),
    *("global_orient", "hand_pose", "betas", "joints", "joints_2d", "translation"),
    *("confidence", "joint_confidence"),
)

TRACKS = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("instance_id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("side_votes", pa.float32(), nullable=False),
        pa.field("side_changed", pa.bool_(), nullable=False),
        pa.field("filled", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32()),
        *(ANNOTATIONS.field(name) for name in ("global_orient", "hand_pose", "betas", "joints", "joints_2d")),
        pa.field("translation", pa.list_(pa.float32())),
    ]
)
"""One row per tracked hand and frame, track by track; shapes, units and frames as in ANNOTATIONS.

track_id: `source#track#frame_index#hand_index` of its first hand. instance_id: the annotation with the raw values; null
where `filled`: in a frame that was looked at, no such hand was found, and the values lie between its neighbours'.
side_votes: the side's share of the track's votes. side_changed: the annotation has the other side, so that its values
were not used: those of the row lie between its neighbours'. confidence: the annotation's.
"""


@dataclass(frozen=True)
class Settings:
    """What decides how a film's hands become tracks.

    gap_s: for how long a hand may be lost. smoothing_s: the standard deviation of the Gaussian in time.
    min_frames: annotated hands that a track has at least.
    """

    gap_s: float = 0.5
    smoothing_s: float = 0.05
    min_frames: int = 1


@dataclass(frozen=True)
class Frames:
    """The frames of a film that were looked at, with a hand or without, in the order in which they are shown."""

    index: Ints  # (K,)
    timestamp: Floats  # (K,)


@dataclass
class Tally:
    """What came of films: `hands` annotated, the `tracks`, of the hands those that are `tracked`, and rows by kind.

    alone: hands of the track's side that have no neighbour in their track within the reach of the smoothing.
    jitter: sums of |second difference| of joints about the wrist, in mm a frame², raw and smoothed, over `triples`
    of one track in consecutive frames, all of them annotated with the track's side.
    """

    frames: int = 0
    hands: int = 0
    tracks: int = 0
    tracked: int = 0
    filled: int = 0
    side_changed: int = 0
    alone: int = 0
    triples: int = 0
    raw_jitter: float = 0.0
    smooth_jitter: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def plain(self) -> dict[str, Any]:
        """Returns what a person reads: the counts, and the mean jitter."""
        triples = max(self.triples, 1)
        return {
            "frames": self.frames,
            "hands": self.hands,
            "tracks": self.tracks,
            "tracked": self.tracked,
            "untracked": self.hands - self.tracked,
            "filled": self.filled,
            "side_changed": self.side_changed,
            "alone": self.alone,
            "jitter_mm_per_frame2": {
                "raw": round(self.raw_jitter / triples, 4) if self.triples else None,
                "smoothed": round(self.smooth_jitter / triples, 4) if self.triples else None,
                "triples": self.triples,
            },
        }


@dataclass
class _Columns:
    """The rows of TRACKS so far, column by column."""

    plain: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in TRACKS.names})
    arrays: dict[str, list[Floats]] = field(default_factory=dict)

    def table(self) -> pa.Table:
        made = []
        for item in TRACKS:
            if pa.types.is_fixed_size_list(item.type):
                parts = self.arrays.get(item.name) or [np.zeros(0)]
                made.append(fixed_lists(np.concatenate([part.reshape(-1) for part in parts]), item.type))
            else:
                made.append(pa.array(self.plain[item.name], item.type))
        return pa.Table.from_arrays(made, schema=TRACKS)


def track_film(
    hands: pa.Table, frames: Frames, settings: Settings, poser: HandPoser
) -> tuple[pa.Table, Tally]:
    """Returns the tracks of a film (TRACKS), and what came of its hands.

    hands: its annotations, COLUMNS of them at least, in any order. frames: must hold those of all hands.
    """
    order = np.lexsort([hands["hand_index"].to_numpy(), hands["frame_index"].to_numpy()])
    hands = hands.take(order)
    times = _ascending(frames.timestamp)
    seen = _sightings(hands, frames)
    chains = vote(seen, times, link(seen, times, settings.gap_s), settings.gap_s)
    chains = [chain for chain in chains if len(chain.rows) >= settings.min_frames]
    raw, columns = _Raw.of(hands), _Columns()
    tally = Tally(frames=len(times), hands=hands.num_rows, tracks=len(chains))
    for chain in chains:
        tally += _add(columns, raw, seen, chain, frames, times, settings, poser)
    return columns.table(), tally


def _ascending(times: Floats) -> Floats:
    """Times of which none is the one before: a film's clock may stand still, an interpolation must not."""
    if (np.diff(times) > 0).all():
        return times
    ascending: Floats = np.maximum.accumulate(times) + 1e-6 * np.arange(len(times))
    return ascending


def _sightings(hands: pa.Table, frames: Frames) -> Sightings:
    scores = hands["bbox_score"].to_numpy(zero_copy_only=False).astype(np.float64)
    return Sightings(
        frame=np.searchsorted(frames.index, hands["frame_index"].to_numpy()),
        boxes=numbers(hands, "bbox", 4),
        joints_2d=numbers(hands, "joints_2d", 21, 2),
        left=np.array([side == "left" for side in hands["side"].to_pylist()], np.bool_),
        votes=np.clip(np.nan_to_num(scores, nan=1.0), 1e-3, None),
    )


@dataclass(frozen=True)
class _Raw:
    """The annotations of a film as arrays."""

    identity: dict[str, list[Any]]
    rotations: Floats  # (N, 16, 3)
    betas: Floats  # (N, 10)
    joints: Floats  # (N, 21, 3)
    joints_2d: Floats  # (N, 21, 2)
    translation: Floats  # (N, 3), NaN where there is none
    confidence: Floats  # (N,)
    joint_confidence: Floats  # (N, 21)

    @classmethod
    def of(cls, hands: pa.Table) -> "_Raw":
        orient, pose = numbers(hands, "global_orient", 1, 3), numbers(hands, "hand_pose", 15, 3)
        return cls(
            identity={
                name: hands[name].to_pylist() for name in ("instance_id", "source", "key", "hand_index")
            },
            rotations=np.concatenate([orient, pose], axis=1),
            betas=numbers(hands, "betas", 10),
            joints=numbers(hands, "joints", 21, 3),
            joints_2d=numbers(hands, "joints_2d", 21, 2),
            translation=translations(hands),
            confidence=numbers(hands, "confidence"),
            joint_confidence=numbers(hands, "joint_confidence", 21),
        )


def _add(
    columns: _Columns,
    raw: _Raw,
    seen: Sightings,
    chain: Chain,
    frames: Frames,
    times: Floats,
    settings: Settings,
    poser: HandPoser,
) -> Tally:
    """Adds a track's rows: each frame that was looked at from its first to its last hand."""
    first, last = seen.frame[chain.rows[0]], seen.frame[chain.rows[-1]]
    places = np.arange(first, last + 1)
    used = chain.rows[chain.agrees]
    at, when = times[places], times[seen.frame[used]]

    turns = smooth_rotations(raw.rotations[used], when, raw.confidence[used], settings.smoothing_s)
    rotations = rotations_between(when, turns, at)
    farthest_px = OUTLIER_SIZES * float(np.median(np.ptp(raw.joints_2d[used], axis=1).max(axis=1)))
    joints_2d = np.stack(
        [
            between(
                when,
                smooth_points(
                    raw.joints_2d[used, joint],
                    when,
                    raw.joint_confidence[used, joint],
                    settings.smoothing_s,
                    farthest_px,
                ),
                at,
            )
            for joint in range(21)
        ],
        axis=1,
    )
    betas = np.tile(robust_mean(raw.betas[used], raw.confidence[used]), (len(places), 1))
    left = np.full(len(places), chain.left)
    pieces = [slice(start, start + POSED_AT_ONCE) for start in range(0, len(places), POSED_AT_ONCE)]
    joints = np.concatenate([poser(rotations[some], betas[some], left[some]).joints for some in pieces])
    for name, values in (
        ("global_orient", rotations[:, 0]),
        ("hand_pose", rotations[:, 1:]),
        ("betas", betas),
        ("joints", joints),
        ("joints_2d", joints_2d),
    ):
        columns.arrays.setdefault(name, []).append(values)

    row_at = dict(zip(seen.frame[chain.rows].tolist(), chain.rows.tolist(), strict=True))
    agrees = dict(zip(chain.rows.tolist(), chain.agrees.tolist(), strict=True))
    rows = [row_at.get(place) for place in places.tolist()]
    start = chain.rows[0]
    source, key, hand_index = (raw.identity[name][start] for name in ("source", "key", "hand_index"))
    add = columns.plain
    add["track_id"] += [f"{source}#track#{frames.index[first]}#{hand_index}"] * len(rows)
    add["instance_id"] += [None if row is None else raw.identity["instance_id"][row] for row in rows]
    add["source"] += [source] * len(rows)
    add["key"] += [key] * len(rows)
    add["frame_index"] += frames.index[places].tolist()
    add["timestamp"] += frames.timestamp[places].tolist()
    add["side"] += ["left" if chain.left else "right"] * len(rows)
    add["side_votes"] += [chain.share] * len(rows)
    add["side_changed"] += [row is not None and not agrees[row] for row in rows]
    add["filled"] += [row is None for row in rows]
    add["confidence"] += [None if row is None else float(raw.confidence[row]) for row in rows]
    add["translation"] += _translations(raw, used, when, at, settings)

    own = np.array([row is not None and agrees[row] for row in rows])
    triples = own[:-2] & own[1:-1] & own[2:]
    before = np.full_like(joints, np.nan)
    before[own] = raw.joints[used]
    return Tally(
        tracked=len(chain.rows),
        filled=len(rows) - len(chain.rows),
        side_changed=int((~chain.agrees).sum()),
        alone=int(alone(when, settings.smoothing_s).sum()),
        triples=int(triples.sum()),
        raw_jitter=float(bends(before)[triples].sum()),
        smooth_jitter=float(bends(joints)[triples].sum()),
    )


def bends(joints: Floats) -> Floats:
    """Returns the mean length of the joints' (n, J, 3) second differences, (n - 2,), in mm a frame²."""
    bend = joints[2:] - 2 * joints[1:-1] + joints[:-2]
    return np.asarray(MILLIMETRES * np.linalg.norm(bend, axis=-1).mean(axis=-1), np.float64)


def _translations(
    raw: _Raw, used: Ints, when: Floats, at: Floats, settings: Settings
) -> Sequence[list[float] | None]:
    """The wrist in camera space, null where it lies within no two that are known and a gap apart at most."""
    known = np.asarray(np.isfinite(raw.translation[used]).all(axis=1), np.bool_)
    if not known.any():
        return [None] * len(at)
    rows, when_known = used[known], when[known]
    places = smooth_points(
        raw.translation[rows], when_known, raw.confidence[rows], settings.smoothing_s, OUTLIER_M
    )
    values = between(when_known, places, at)
    before = np.searchsorted(when_known, at, "right") - 1
    after = np.searchsorted(when_known, at, "left")
    inside = (before >= 0) & (after < len(when_known))
    apart = when_known[np.minimum(after, len(when_known) - 1)] - when_known[np.maximum(before, 0)]
    # Of frames that always follow each other more slowly than a gap nothing is asked but that both are known.
    steady = np.diff(np.flatnonzero(known), append=-1)[np.maximum(before, 0)] == 1
    placed = inside & ((apart <= settings.gap_s) | (steady & (apart <= longest_step(at, settings.gap_s))))
    return [value.tolist() if there else None for value, there in zip(values, placed, strict=True)]
