"""How the hands of a synthetic film move: smoothly from one random target to the next.

F frames; metres, radians, seconds; camera axes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from model.mano.asset import Side
from model.mano.poses import random_pose
from pipeline.synthesis.hands import HandKit, PosedHand

Floats = NDArray[np.floating]

# Seconds from target to target. Hands in talk and work start and stop about this often.
POSE_S, TURN_S, PATH_S = (0.35, 0.9), (0.5, 1.2), (0.6, 1.4)


@dataclass(frozen=True)
class MovingHand:
    """One hand of a film; parameters are those of the right hand, as `HandKit.posed` takes them."""

    side: Side
    global_orient: Floats  # (F, 3) axis-angle
    hand_pose: Floats  # (F, 45)
    betas: Floats  # (10,)
    wrist: Floats  # (F, 3) in camera space

    def at(self, kit: HandKit, frame: int) -> PosedHand:
        """Returns the hand of a frame, its wrist at the origin."""
        return kit.posed(self.global_orient[frame], self.hand_pose[frame], self.betas, self.side)


def move(
    rng: np.random.Generator, kit: HandKit, side: Side, times: Floats, place: Callable[[int], Floats]
) -> MovingHand:
    """Moves a hand through random poses, turns and places; `place(k)` gives the wrist's k-th target (3,)."""
    start = kit.random_hand(rng, "right")
    ticks = _ticks(rng, times, POSE_S)
    poses = np.asarray(random_pose(rng, len(ticks)), np.float64).reshape(len(ticks), 15, 3)
    fingers = [_turned(ticks, poses[:, joint], times) for joint in range(15)]
    ticks = _ticks(rng, times, TURN_S)
    turns = [Rotation.from_rotvec(start.global_orient)]
    for _ in ticks[1:]:
        turns.append(Rotation.from_rotvec(rng.normal(0, 0.45, 3)) * turns[-1])
    orient = _turned(ticks, Rotation.concatenate(turns).as_rotvec(), times)
    ticks = _ticks(rng, times, PATH_S)
    targets = np.stack([place(number) for number in range(len(ticks))])
    eased, number = _eased(ticks, times)
    wrist = targets[number] + (targets[number + 1] - targets[number]) * eased[:, None]
    return MovingHand(side, orient, np.stack(fingers, axis=1).reshape(len(times), 45), start.betas, wrist)


def cross(moving: MovingHand, times: Floats, start: Floats, end: Floats) -> MovingHand:
    """Returns the hand on a way of its own: from one place to another in all the time there is."""
    span = times[-1] - times[0] or 1.0  # a single frame shows the start
    eased, _ = _eased(np.array([times[0], times[0] + span]), times)
    wrist = start + (end - start) * eased[:, None]
    return MovingHand(moving.side, moving.global_orient, moving.hand_pose, moving.betas, wrist)


def _ticks(rng: np.random.Generator, times: Floats, apart: tuple[float, float]) -> Floats:
    """Random times of targets; the first lies before all frames, the last behind."""
    ticks = [float(times[0] - rng.uniform(0, apart[0]))]
    while ticks[-1] <= times[-1]:
        ticks.append(ticks[-1] + float(rng.uniform(*apart)))
    return np.array(ticks)


def _eased(ticks: Floats, times: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """How much of the way to the next target is done, and from which target: least jerk (Flash and Hogan 1985)."""
    number = np.clip(np.searchsorted(ticks, times, "right") - 1, 0, len(ticks) - 2)
    share = (times - ticks[number]) / (ticks[number + 1] - ticks[number])
    return share**3 * (10 - 15 * share + 6 * share**2), number


def _turned(ticks: Floats, axis_angle: Floats, times: Floats) -> Floats:
    """Rotations (F, 3) at times, turned steadily or eased from each target (K, 3) to the next."""
    eased, number = _eased(ticks, times)
    warped = ticks[number] + eased * (ticks[number + 1] - ticks[number])
    turned: Floats = Slerp(ticks, Rotation.from_rotvec(axis_angle))(warped).as_rotvec()
    return turned
