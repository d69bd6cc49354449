"""FreiHAND as downloaded, tiny: two poses, and their four pictures each."""

import json
from pathlib import Path

import numpy as np

from model.mano.synthetic import synthetic_hand
from tests.datasets.truth import TrueHand, matrix, picture, true_hand, write

CAMERA = np.array([200.0, 201.0, 112.0, 111.0])
POSES = 2


def hands(split: str) -> list[TrueHand]:
    return [true_hand(seed + 20 * (split == "training"), tips="freihand") for seed in range(POSES)]


def mano_row(hand: TrueHand) -> list[list[float]]:
    offsets = hand.hand_pose - synthetic_hand().hands_mean
    root, scale = [100.0, 120.0], [0.03]
    return [[*hand.global_orient, *offsets, *hand.betas, *root, *scale]]


def build(root: Path, truth: bool = False) -> Path:
    """Both splits; `truth` is what came later for the evaluation."""
    for split in ("training", "evaluation"):
        made = hands(split)
        for number in range(POSES * (4 if split == "training" else 1)):
            write(root / split / "rgb" / f"{number:08d}.jpg", picture(224, 224, "JPEG", number))
        rows = {
            "K": [matrix(CAMERA).tolist() for _ in made],
            "scale": [float(np.linalg.norm(hand.joints[9] - hand.joints[10])) for hand in made],
        }
        if split == "training" or truth:
            rows["xyz"] = [hand.joints.tolist() for hand in made]
            rows["verts"] = [hand.vertices.tolist() for hand in made]
            rows["mano"] = [mano_row(hand) for hand in made]
        for name, values in rows.items():
            write(root / f"{split}_{name}.json", json.dumps(values))
    return root
