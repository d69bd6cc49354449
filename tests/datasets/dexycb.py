"""DexYCB as downloaded, tiny: subjects with all of their hundred sequences, which are empty but for a few frames."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from model.mano.synthetic import synthetic_hand
from tests.datasets.truth import TrueHand, faulty_left, picture, true_hand, write

CAMERA = np.array([617.1, 617.5, 312.4, 241.4])
SERIALS = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
# Subject 7 is the whole validation of s1; of its sequences only these two have frames.
SUBJECT = "20200928-subject-07"
FULL = {3: "right", 8: "left"}
FRAMES = 2
NO_HAND = (SERIALS[1], 1)  # of every sequence


def sequence(number: int) -> str:
    return f"20200928_{143000 + number:06d}"


def betas(side: str) -> list[float]:
    rng = np.random.default_rng(side == "left")
    return [round(value, 6) for value in rng.normal(size=10).tolist()]


@cache
def hand(number: int, serial: str, frame: int) -> TrueHand:
    """Every camera sees a hand of its own: what is tested is one frame at a time."""
    side = FULL[number]
    return true_hand(100 * number + 10 * SERIALS.index(serial) + frame, side, betas=np.array(betas(side)))


def pose_m(made: TrueHand) -> np.ndarray:
    model = synthetic_hand() if made.side == "right" else faulty_left()
    coefficients = np.linalg.solve(
        model.hands_components.T.astype(np.float64), made.hand_pose - model.hands_mean
    )
    return np.concatenate([made.global_orient, coefficients, made.transl])[None].astype(np.float32)


def labels(made: TrueHand | None) -> bytes:
    stream = io.BytesIO()
    joints, pose = np.full((1, 21, 3), -1, np.float32), np.zeros((1, 51), np.float32)
    if made is not None:
        joints, pose = made.joints[None].astype(np.float32), pose_m(made)
    pixels = joints[..., :2] / joints[..., 2:] * CAMERA[:2] + CAMERA[2:] if made else joints[..., :2]
    np.savez_compressed(
        stream,
        seg=np.zeros((480, 640), np.uint8),
        pose_y=np.zeros((2, 3, 4), np.float32),
        pose_m=pose,
        joint_3d=joints,
        joint_2d=pixels.astype(np.float32),
    )
    return stream.getvalue()


def build(root: Path) -> Path:
    for number in range(100):
        folder = root / SUBJECT / sequence(number)
        side = FULL.get(number, "right")
        meta = {
            "serials": list(SERIALS),
            "num_frames": FRAMES if number in FULL else 0,
            "extrinsics": "20200702_151821",
            "ycb_ids": [2, 5, 21],
            "ycb_grasp_ind": 1,
            "mano_sides": [side],
            "mano_calib": [f"20200813-subject-07_{side}"],
        }
        write(folder / "meta.yml", yaml.safe_dump(meta))
        for serial in SERIALS if number in FULL else ():
            for frame in range(FRAMES):
                made = None if (serial, frame) == NO_HAND else hand(number, serial, frame)
                write(folder / serial / f"color_{frame:06d}.jpg", picture(640, 480, "JPEG", frame))
                write(folder / serial / f"labels_{frame:06d}.npz", labels(made))
    fx, fy, ppx, ppy = CAMERA.tolist()
    part = {"fx": fx, "fy": fy, "ppx": ppx, "ppy": ppy}
    for serial in SERIALS:
        text = yaml.safe_dump({"color": part, "depth": part})
        write(root / "calibration" / "intrinsics" / f"{serial}_640x480.yml", text)
    for side in ("right", "left"):
        text = yaml.safe_dump({"betas": betas(side)})
        write(root / "calibration" / f"mano_20200813-subject-07_{side}" / "mano.yml", text)
    return root
