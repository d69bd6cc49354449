"""Whether labels agree with themselves: MANO's joints with the labelled ones, the joints with the box.

A reader that took an axis, a unit, an order or a pose for another one shows here, on anybody's copy of the data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel
from model.mano.layer import ManoLayer, wrist_relative
from pipeline.datasets.conventions import Floats
from pipeline.datasets.labels import Label

_BOX_SLACK = 0.15  # of the box's longer side: boxes of benchmarks are drawn by other rules than ours
SUSPICIOUS_MM = 5.0
SUSPICIOUS_SHARE = 0.9


@dataclass(frozen=True)
class Agreement:
    """Sums over hands: of those with parameters, the mean distance of the joints; of those with joints, the share
    that lies in the box."""

    posed: int = 0
    distance_mm: float = 0.0
    farthest_mm: float = 0.0
    boxed: int = 0
    share_in_box: float = 0.0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.posed + other.posed,
            self.distance_mm + other.distance_mm,
            max(self.farthest_mm, other.farthest_mm),
            self.boxed + other.boxed,
            self.share_in_box + other.share_in_box,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def mean_mm(self) -> float | None:
        """Mean distance of MANO's joints from the labelled ones; None where nothing could be posed."""
        return self.distance_mm / self.posed if self.posed else None

    @property
    def mean_share(self) -> float | None:
        """Share of joints that lie in their hand's box; None where there are no joints."""
        return self.share_in_box / self.boxed if self.boxed else None


def remarks(agreed: Mapping[str, Agreement]) -> list[str]:
    """Returns what a person should look into, by the sides of the hands."""
    found = []
    for side, sums in agreed.items():
        if sums.mean_mm is not None and sums.mean_mm > SUSPICIOUS_MM:
            found.append(
                f"MANO's joints lie {sums.mean_mm:.1f} mm from the labelled ones of {side} hands on average: is --mano "
                "the model, and ROOT the benchmark, that the other belongs to?"
            )
        if sums.mean_share is not None and sums.mean_share < SUSPICIOUS_SHARE:
            found.append(
                f"only {100 * sums.mean_share:.0f} % of the projected joints of {side} hands lie in their boxes: "
                "is ROOT this benchmark?"
            )
    return found


def sum_up(parts: Iterable[Mapping[str, Agreement]]) -> dict[str, Agreement]:
    """Returns the sums of many, by side."""
    total: dict[str, Agreement] = {}
    for part in parts:
        for side, sums in part.items():
            total[side] = total.get(side, Agreement()) + sums
    return total


def agreement(labels: Sequence[Label], hand_model: HandModel | None) -> dict[str, Agreement]:
    """Returns how far labels agree, by the hands' sides; without a hand model parameters are not looked at."""
    hands = [(hand, label.get("fingertip_vertices")) for label in labels for hand in label["hands"]]
    sides = sorted({hand["side"] for hand, _ in hands})
    return {side: _of_side([item for item in hands if item[0]["side"] == side], hand_model) for side in sides}


def _of_side(hands: Sequence[tuple[Label, list[int] | None]], hand_model: HandModel | None) -> Agreement:
    shares = [_share_in_box(hand) for hand, _ in hands if "joints_2d" in hand]
    total = Agreement(boxed=len(shares), share_in_box=float(np.sum(shares)))
    posed = [hand for hand, tips in hands if tips and "mano" in hand and "joints_3d" in hand]
    if hand_model is None or not posed:
        return total
    thumb, index, middle, ring, little = next(tips for _, tips in hands if tips)
    model = replace(hand_model, fingertip_vertices=(thumb, index, middle, ring, little))
    apart = _distances_mm(posed, model)
    return replace(total, posed=len(apart), distance_mm=float(apart.sum()), farthest_mm=float(apart.max()))


def _share_in_box(hand: Label) -> float:
    x, y, width, height = hand["bbox"]
    slack = _BOX_SLACK * max(width, height)
    low, high = np.array([x, y]) - slack, np.array([x + width, y + height]) + slack
    pixels = np.array(hand["joints_2d"])
    return float(((pixels >= low) & (pixels <= high)).all(axis=1).mean())


def _distances_mm(hands: Sequence[Label], hand_model: HandModel) -> Floats:
    """The mean distance of the 21 joints of every hand, wrist on wrist."""
    mirror = np.array([[-1.0 if hand["side"] == "left" else 1.0, 1, 1] for hand in hands])
    vectors = np.array([[*hand["mano"]["global_orient"], *hand["mano"]["hand_pose"]] for hand in hands])
    # A left hand's axis-angle (x, y, z) is (x, -y, -z) of the right one that it mirrors.
    vectors = vectors.reshape(-1, 16, 3) * (mirror * mirror[:, :1])[:, None]
    rotations = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(-1, 16, 3, 3)
    betas = torch.tensor([hand["mano"]["betas"] for hand in hands])
    with torch.inference_mode():
        _, joints = wrist_relative(ManoLayer(hand_model)(torch.from_numpy(rotations).float(), betas))
    labelled = np.array([hand["joints_3d"] for hand in hands])
    labelled = (labelled - labelled[:, :1]) * mirror[:, None]
    distances: Floats = 1000 * np.linalg.norm(joints.numpy() - labelled, axis=-1).mean(axis=1)
    return distances
