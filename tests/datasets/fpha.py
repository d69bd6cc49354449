"""FPHA as downloaded, tiny: two training sequences and one test sequence by actions, others by subjects."""

from pathlib import Path

import numpy as np

from tests.datasets.truth import Floats, TrueHand, picture, true_hand, write

CAMERA = np.array([1395.749023, 1395.749268, 935.732544, 540.681030])
EXTRINSICS = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594, 25.7],
        [0.00469115935266, 0.999985218048, -0.00273845880292, 1.22],
        [-0.000969709653873, 0.00274303671904, 0.99999576807, 3.902],
    ]
)
# Of FPHA's names W, T M I R P MCP, then PIP DIP TIP of each finger, where they stand in the simple order.
SIMPLE_OF_FPHA = (0, 1, 5, 9, 13, 17, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16, 18, 19, 20)
TRAIN = ("Subject_1/put_salt/1", "Subject_2/open_milk/3")
TEST = ("Subject_3/put_salt/2",)
FRAMES = 2


def hand(sequence: str, frame: int) -> TrueHand:
    return true_hand([*TRAIN, *TEST].index(sequence) * 10 + frame)


def skeleton(points_m: Floats) -> Floats:
    """What a joint before the colour camera is to the depth camera, in millimetres and FPHA's order."""
    turned = (1000 * points_m - EXTRINSICS[:, 3]) @ np.linalg.inv(EXTRINSICS[:, :3]).T
    return turned[list(SIMPLE_OF_FPHA)]


def build(root: Path) -> Path:
    for sequence in (*TRAIN, *TEST):
        lines = []
        for frame in range(FRAMES):
            numbers = " ".join(f"{value:.6f}" for value in skeleton(hand(sequence, frame).joints).ravel())
            lines.append(f"{frame} {numbers}")
            name = f"Video_files/{sequence}/color/color_{frame:04d}.jpeg"
            write(root / name, picture(1920, 1080, "JPEG"))
        write(root / f"Hand_pose_annotation_v1/{sequence}/skeleton.txt", "\n".join(lines) + "\n")
    text = f"Training {len(TRAIN)}\n" + "".join(f"{name} 3\n" for name in TRAIN)
    text += f"Test {len(TEST)}\n" + "".join(f"{name} 3\n" for name in TEST)
    write(root / "data_split_action_recognition.txt", text)
    return root
