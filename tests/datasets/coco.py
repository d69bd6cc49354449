"""HandOccNet's own files, tiny: HO-3D's two splits, and DexYCB's s0_train with a hand of each side."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.mano.synthetic import synthetic_hand
from tests.datasets import dexycb, ho3d
from tests.datasets.truth import Floats, TrueHand, faulty_left, picture, write


def _camera(camera: Floats) -> dict[str, list[float]]:
    return {"focal": camera[:2].tolist(), "princpt": camera[2:].tolist()}


def _mano(hand: TrueHand) -> dict[str, list[float]]:
    model = synthetic_hand() if hand.side == "right" else faulty_left()
    offsets = hand.hand_pose - model.hands_mean
    return {"pose": [*hand.global_orient, *offsets], "shape": hand.betas.tolist()}


def _file(root: Path, name: str, files: list[str], annotations: list[dict[str, Any]]) -> None:
    """The images stand in the opposite order, and have numbers that are no rows."""
    numbers = [100 + 7 * place for place in range(len(files))]
    images = [
        {"id": number, "file_name": file, "width": 640, "height": 480}
        for number, file in zip(numbers, files, strict=True)
    ]
    rows = [
        {"id": place, "image_id": number, **row}
        for place, (number, row) in enumerate(zip(numbers, annotations, strict=True))
    ]
    content = {"info": {"made": ["for", ["a", "test"]]}, "images": images[::-1], "annotations": rows}
    write(root / "annotations" / name, json.dumps(content))


def build_ho3d(root: Path) -> Path:
    for split, lines in (("train", ho3d.TRAIN), ("evaluation", ho3d.EVALUATION)):
        files = ["{}/rgb/{}.png".format(*line.split("/")) for line in lines]
        for file in files:
            write(root / split / file, picture(640, 480, "PNG"))
        annotations: list[dict[str, Any]] = []
        for hand in ho3d.hands(split):
            row = {"cam_param": _camera(ho3d.CAMERA)}
            if split == "train":
                row |= {"joints_coord_cam": hand.joints.tolist(), "mano_param": _mano(hand)}
            else:
                left, top, right, bottom = ho3d.evaluation_meta(hand)["handBoundingBox"]
                row |= {
                    "root_joint_cam": hand.joints[0].tolist(),
                    "bbox": [left, top, right - left, bottom - top],
                }
            annotations.append(row)
        _file(root, f"HO3D_{split}_data.json", files, annotations)
    return root


def dexycb_hands() -> list[TrueHand]:
    return [dexycb.hand(number, dexycb.SERIALS[0], 0) for number in dexycb.FULL]


def build_dexycb(root: Path) -> Path:
    files, annotations = [], []
    for number, hand in zip(dexycb.FULL, dexycb_hands(), strict=True):
        file = f"{dexycb.SUBJECT}/{dexycb.sequence(number)}/{dexycb.SERIALS[0]}/color_000000.jpg"
        write(root / file, picture(640, 480, "JPEG"))
        files.append(file)
        pixels = hand.joints[:, :2] / hand.joints[:, 2:] * dexycb.CAMERA[:2] + dexycb.CAMERA[2:]
        annotations.append(
            {
                "joints_coord_cam": hand.joints.tolist(),
                "joints_img": np.asarray(pixels).tolist(),
                "hand_type": hand.side,
                "cam_param": _camera(dexycb.CAMERA),
                "mano_param": _mano(hand),
            }
        )
    _file(root, "DEX_YCB_s0_train_data.json", files, annotations)
    return root
