"""Who is who over time: the hands of a film's frames, linked to chains.

N sightings (hands in frames), K = frames that were looked at, J = 21 joints; pixels, seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from pipeline.boxes.overlap import overlap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A distance counts in sizes of the hand, the longer side of its box; a hand that may be one of a chain costs less
# than its reach: 1, and 3 more for each second since the chain was seen, for hands start and stop.
REACH, REACH_PER_S, FARTHEST = 1.0, 3.0, 2.5
OVERLAP_COST, SIDE_COST, LOST_COST = 0.5, 0.4, 0.3
# The velocity is that of so many seconds, and a hand keeps it for about as long.
MOTION_S = 0.25
MOTION_FRAMES = 16
# Frames of a burst may be a millisecond apart: what moves in less than this is the joints' noise, not the hand.
LEAST_MOTION_S = 0.02


@dataclass(frozen=True)
class Sightings:
    """The hands of a film, in the order of their frames.

    frame: each one's place among the frames that were looked at. votes: what its side counts, more than 0.
    """

    frame: Ints  # (N,)
    boxes: Floats  # (N, 4) x, y, w, h
    joints_2d: Floats  # (N, 21, 2)
    left: NDArray[np.bool_]  # (N,)
    votes: Floats  # (N,)


@dataclass
class _Chain:
    """Sightings of one hand so far, and which side they speak for: more than 0 for the left."""

    rows: list[int] = field(default_factory=list)
    balance: float = 0.0

    def add(self, seen: Sightings, row: int) -> None:
        self.rows.append(row)
        self.balance += seen.votes[row] if seen.left[row] else -seen.votes[row]


def link(seen: Sightings, times: Floats, gap_s: float) -> list[list[int]]:
    """Returns the rows of each chain, chains in the order of their first rows; every sighting is in one.

    times (K,): when the frames are shown, ascending. A chain goes on in the very next frame, unless that is later
    than frames usually are, or after frames without its hand when it was seen at most `gap_s` before. Frame by frame
    all chains and hands are matched at once, by box overlap and joints where constant velocity puts them, and by
    side, which may flicker.
    """
    chains: list[_Chain] = []
    going: list[_Chain] = []
    starts = np.searchsorted(seen.frame, np.arange(len(times) + 1))
    next_s = longest_step(times, gap_s)
    for number, now in enumerate(times):
        going = [
            chain
            for chain in going
            if now - times[seen.frame[chain.rows[-1]]]
            <= (next_s if seen.frame[chain.rows[-1]] == number - 1 else gap_s)
        ]
        here = list(range(starts[number], starts[number + 1]))
        matched = _match(seen, times, going, here, number, gap_s)
        for row in here:
            chain = matched.get(row)
            if chain is None:
                chain = _Chain()
                chains.append(chain)
                going.append(chain)
            chain.add(seen, row)
    return [chain.rows for chain in chains]


def longest_step(times: Floats, gap_s: float) -> float:
    """Returns after how many seconds the very next frame still continues the one before: what lies in a longer hole
    of a film (lost packets, a pause, frames that could not be read) nobody knows."""
    return max(gap_s, 1.5 * float(np.median(np.diff(times)))) if len(times) > 1 else gap_s


def _match(
    seen: Sightings, times: Floats, chains: Sequence[_Chain], here: Sequence[int], number: int, gap_s: float
) -> dict[int, _Chain]:
    if not chains or not here:
        return {}
    gains = np.stack([_gains(seen, times, chain, here, number, gap_s) for chain in chains])
    # What is beyond reach gains nothing, as no match does: a pair is never made for the sake of another one.
    pairs = zip(*linear_sum_assignment(-gains), strict=True)
    return {here[hand]: chains[chain] for chain, hand in pairs if gains[chain, hand] > 0}


def _gains(
    seen: Sightings, times: Floats, chain: _Chain, here: Sequence[int], number: int, gap_s: float
) -> Floats:
    """What it gains to go on with each of the hands (M,): 1 for the very same place, 0 beyond reach."""
    last, now = chain.rows[-1], times[number]
    elapsed = now - times[seen.frame[last]]
    shift = _velocity(seen, times, chain.rows) * MOTION_S * (1 - np.exp(-elapsed / MOTION_S))
    box = seen.boxes[last] + np.concatenate([shift, np.zeros(2)])
    boxes, joints = seen.boxes[here], seen.joints_2d[here]
    size = (max(box[2:].max(), 1.0) + np.maximum(boxes[:, 2:].max(axis=1), 1.0)) / 2
    apart = np.linalg.norm(joints - (seen.joints_2d[last] + shift), axis=-1).mean(axis=1) / size
    cost = apart + OVERLAP_COST * (1 - overlap(box, boxes))
    if chain.balance:
        cost += SIDE_COST * (seen.left[here] != (chain.balance > 0))
    reach = min(REACH + REACH_PER_S * elapsed, FARTHEST)
    lost = 0.0 if seen.frame[last] == number - 1 else LOST_COST * min(elapsed / gap_s, 1.0)
    return np.asarray(np.maximum(1 - cost / reach - lost, 0.0), np.float64)


def _velocity(seen: Sightings, times: Floats, rows: Sequence[int]) -> Floats:
    """Pixels a second of the joints' centre over the last MOTION_S, MOTION_FRAMES frames at most, (2,); of frames
    that are nearer to each other than LEAST_MOTION_S, as if they were that far apart."""
    now = times[seen.frame[rows[-1]]]
    first = next(row for row in rows[-MOTION_FRAMES:] if now - times[seen.frame[row]] <= MOTION_S)
    elapsed = max(now - times[seen.frame[first]], LEAST_MOTION_S)
    moved: Floats = seen.joints_2d[rows[-1]].mean(axis=0) - seen.joints_2d[first].mean(axis=0)
    return np.asarray(moved / elapsed, np.float64)


@dataclass(frozen=True)
class Chain:
    """The rows of one track; `left` is its side by vote, `share` that side's part of the votes.

    agrees (n,): which rows are of that side. Others lie between such, no farther apart than a gap.
    """

    rows: Ints  # (n,)
    left: bool
    share: float
    agrees: NDArray[np.bool_]


def vote(seen: Sightings, times: Floats, chains: Sequence[Sequence[int]], gap_s: float) -> list[Chain]:
    """Returns the chains with their sides, in the order of their first rows.

    What the network says of a hand of the wrong side cannot be used, so that those rows must lie inside a gap. Where
    the side changes for longer, or at an end, the chain is cut there.
    """
    found: list[Chain] = []
    left = [list(chain) for chain in chains if len(chain)]
    while left:
        rows = np.array(left.pop(), np.int64)
        votes, is_left = seen.votes[rows], seen.left[rows]
        of_left, total = float(votes[is_left].sum()), float(votes.sum())
        side = bool(is_left[0]) if 2 * of_left == total else 2 * of_left > total
        agrees = is_left == side
        good = np.flatnonzero(agrees)
        when = times[seen.frame[rows[good]]]
        # Between two good rows: whether rows of the other side lie there, and for too long.
        cuts = (np.diff(good) > 1) & (np.diff(when) > gap_s)
        runs = np.split(good, np.flatnonzero(cuts) + 1)
        kept = [np.arange(run[0], run[-1] + 1) for run in runs]
        for run in kept:
            own = votes[run][agrees[run]].sum() / votes[run].sum()
            found.append(Chain(rows[run], side, float(own), agrees[run]))
        others = np.setdiff1d(np.arange(len(rows)), np.concatenate(kept))
        if len(others):
            pieces = np.split(others, np.flatnonzero(np.diff(others) > 1) + 1)
            left += [rows[piece].tolist() for piece in pieces]
    return sorted(found, key=lambda chain: int(chain.rows[0]))
