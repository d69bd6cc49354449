"""HO-3D as downloaded, tiny."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from model.mano.joints import HO3D_FROM_SIMPLE
from tests.datasets.truth import Floats, TrueHand, matrix, picture, true_hand, write

CAMERA = np.array([614.6, 614.1, 320.3, 241.7])
OPENGL = np.array([1.0, -1.0, -1.0])
TRAIN = ("ABF10/0000", "ABF10/0001", "MC1/0007")
EVALUATION = ("SM1/0000", "AP10/0003", "SM1/0001")
UNANNOTATED = "MC1/0008"


def hands(split: str) -> list[TrueHand]:
    names = TRAIN if split == "train" else EVALUATION
    return [true_hand(seed + 10 * (split == "train"), tips="ho3d") for seed in range(len(names))]


def ho3d_joints(hand: TrueHand) -> Floats:
    return (hand.joints * OPENGL)[list(HO3D_FROM_SIMPLE)]


def train_meta(hand: TrueHand) -> dict[str, Any]:
    orient = Rotation.from_matrix(np.diag(OPENGL) @ Rotation.from_rotvec(hand.global_orient).as_matrix())
    # The rotation is about the wrist at rest: turning the axes turns that point too.
    turned_about = hand.joints[0] - hand.transl
    return {
        "camMat": matrix(CAMERA),
        "handPose": np.concatenate([orient.as_rotvec(), hand.hand_pose]),
        "handTrans": OPENGL * hand.joints[0] - turned_about,
        "handBeta": hand.betas,
        "handJoints3D": ho3d_joints(hand),
        **_object_keys(),
    }


def _object_keys() -> dict[str, Any]:
    return {
        "objRot": np.array([[0.1], [0.2], [0.3]]),
        "objTrans": np.array([0.0, 0.1, -0.5]),
        "objName": "021_bleach_cleanser",
        "objLabel": np.int64(12),
        "objCorners3D": np.zeros((8, 3)),
    }


def evaluation_meta(hand: TrueHand) -> dict[str, Any]:
    pixels = hand.vertices[:, :2] / hand.vertices[:, 2:] * CAMERA[:2] + CAMERA[2:]
    box = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
    return {
        "camMat": matrix(CAMERA),
        "handJoints3D": OPENGL * hand.joints[0],
        "handBoundingBox": [float(value) for value in box],
        **_object_keys(),
    }


def build(root: Path, version: int = 2, truth: bool = True, protocol: int = 2) -> Path:
    """Three frames of each split, and one of the training split that nobody annotated."""
    ending, form = (".png", "PNG") if version == 2 else (".jpg", "JPEG")

    def frame(split: str, line: str, meta: dict[str, Any], shade: int) -> None:
        sequence, number = line.split("/")
        folder = root / split / sequence
        write(folder / "rgb" / f"{number}{ending}", picture(640, 480, form, shade))
        write(folder / "meta" / f"{number}.pkl", pickle.dumps(meta, protocol=protocol))

    for shade, (line, hand) in enumerate(zip(TRAIN, hands("train"), strict=True)):
        frame("train", line, train_meta(hand), shade)
    frame("train", UNANNOTATED, dict.fromkeys(train_meta(hands("train")[0])), 9)
    for shade, (line, hand) in enumerate(zip(EVALUATION, hands("evaluation"), strict=True)):
        frame("evaluation", line, evaluation_meta(hand), shade + 100)
    write(root / "train.txt", "\n".join([*TRAIN, UNANNOTATED]) + "\n")
    write(root / "evaluation.txt", "\n".join(EVALUATION) + "\n")
    if truth:
        tested = hands("evaluation")
        write(root / "evaluation_xyz.json", json.dumps([ho3d_joints(hand).tolist() for hand in tested]))
        write(
            root / "evaluation_verts.json", json.dumps([(hand.vertices * OPENGL).tolist() for hand in tested])
        )
    return root
