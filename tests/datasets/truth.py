"""Hands whose every number is known, of which the fixtures write what each benchmark would say of them."""

import io
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from model.mano.asset import HandModel, mirrored
from model.mano.joints import FINGERTIP_VERTICES
from model.mano.layer import ManoLayer
from model.mano.poses import random_pose
from model.mano.synthetic import export_mano_pickle, synthetic_hand

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrueHand:
    """A posed hand before a camera with OpenCV's axes; the parameters are those of the model of its own side."""

    side: str
    global_orient: Floats  # (3,)
    hand_pose: Floats  # (45,) absolute
    betas: Floats  # (10,)
    transl: Floats  # (3,) smplx's: what is added to the vertices
    joints: Floats  # (21, 3) simple order
    vertices: Floats  # (778, 3)


def faulty_left() -> HandModel:
    """The left hand as MANO publishes it: the sign of its shape directions is wrong in x."""
    left = mirrored(synthetic_hand())
    return replace(left, shapedirs=left.shapedirs * np.array([-1, 1, 1], np.float32)[:, None])


@cache
def _layer(side: str, tips: str) -> ManoLayer:
    model = synthetic_hand() if side == "right" else faulty_left()
    return ManoLayer(replace(model, fingertip_vertices=FINGERTIP_VERTICES[tips]), torch.float64)


def true_hand(seed: int, side: str = "right", tips: str = "manopth", betas: Floats | None = None) -> TrueHand:
    """A hand half a metre before the camera, near its axis."""
    rng = np.random.default_rng(seed)
    betas = rng.normal(size=10) if betas is None else betas
    orient = Rotation.random(random_state=rng).as_rotvec()
    pose = random_pose(rng, 1)[0].astype(np.float64)
    if side == "left":
        pose = (pose.reshape(15, 3) * (1, -1, -1)).reshape(45)
    rotations = Rotation.from_rotvec(np.concatenate([orient, pose]).reshape(16, 3)).as_matrix()
    with torch.inference_mode():
        out = _layer(side, tips)(torch.from_numpy(rotations)[None], torch.from_numpy(betas)[None])
    transl = np.array([0.03, -0.02, 0.55]) + rng.uniform(-0.05, 0.05, 3)
    joints, vertices = out.joints_B21x3[0].numpy() + transl, out.vertices_BV3[0].numpy() + transl
    return TrueHand(side, orient, pose, betas, transl, joints, vertices)


@cache
def picture(width: int, height: int, form: str, shade: int = 0) -> bytes:
    """A small file of a picture of this size."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (40, 80, shade % 256)).save(stream, form)
    return stream.getvalue()


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def write_mano(folder: Path) -> Path:
    """The folder of MANO's two files, played by the procedural hand, the left one with its published fault."""
    write(folder / "MANO_RIGHT.pkl", export_mano_pickle(synthetic_hand()))
    write(folder / "MANO_LEFT.pkl", export_mano_pickle(faulty_left()))
    return folder


def matrix(camera: Floats) -> Floats:
    fx, fy, cx, cy = camera
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
