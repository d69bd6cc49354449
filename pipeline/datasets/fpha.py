"""FPHA, the First-Person Hand Action benchmark (github.com/guiggh/hand_pose_action).

    data_split_action_recognition.txt                          "Training n", sequences, "Test n", sequences
    Video_files/Subject_1/ACTION/REP/color/color_%04d.jpeg     1920x1080
    Hand_pose_annotation_v1[_1]/Subject_1/ACTION/REP/skeleton.txt     a line per frame: t, then 21 times x y z

Millimetres before the depth camera, an order of its own, no MANO. Right hands. Published readers split it by the
file (`actions-…`) or by subject (`subjects-…`).
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from pipeline import storage
from pipeline.datasets.benchmark import Frame
from pipeline.datasets.conventions import Floats, metres, simple_from_fpha
from pipeline.datasets.files import array_of, read_all_required, read_required
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.labels import Label, frame_label, hand_label
from pipeline.errors import ConfigError, DataError

_TITLE = "FPHA"
_POSES = ("Hand_pose_annotation_v1_1", "Hand_pose_annotation_v1")
_SPLIT_FILE = "data_split_action_recognition.txt"
_SUBJECTS = {"subjects-train": ("1", "3", "4"), "subjects-test": ("2", "5", "6")}

# The colour camera, and where the depth camera's points lie before it, in millimetres (the same repository).
CAMERA: Final = np.array([1395.749023, 1395.749268, 935.732544, 540.681030])
ROTATION: Final = np.array(
    [
        [0.999988496304, -0.00468848412856, 0.000982563360594],
        [0.00469115935266, 0.999985218048, -0.00273845880292],
        [-0.000969709653873, 0.00274303671904, 0.99999576807],
    ]
)
TRANSLATION_MM: Final = np.array([25.7, 1.22, 3.902])

# Published readers leave these out: their annotations are at fault.
_LEFT_OUT = frozenset({"Subject_2/close_milk/4", "Subject_2/put_tea_bag/2", "Subject_4/flip_sponge/2"})


@dataclass(frozen=True)
class Fpha:
    """A split of FPHA: its sequences, and where the frames of each begin among all (one more than sequences)."""

    root: str
    split: str
    poses: str
    sequences: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def truth(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return self.starts[-1]

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        place = bisect_right(self.starts, first) - 1
        for sequence, (start, end) in zip(
            self.sequences[place:], pairwise(self.starts[place:]), strict=False
        ):
            if start >= last:
                return
            lines = _lines(storage.read(storage.below(self.root, f"{self.poses}/{sequence}/skeleton.txt")))
            for index in range(max(first, start), min(last, end)):
                line = lines[index - start]
                number = line.split(maxsplit=1)[0]
                key = f"{sequence}/color_{number.zfill(4)}"
                image = f"Video_files/{sequence}/color/color_{number.zfill(4)}.jpeg"
                yield Frame(index, key, storage.below(self.root, image), line)

    def label(self, frame: Frame) -> Label:
        sequence = frame.key.rpartition("/")[0]
        joints = camera_joints(_numbers(frame.about))
        return frame_label(
            "fpha",
            self.split,
            frame.index,
            CAMERA,
            hand_label("right", CAMERA, joints=joints),
            tips=None,
            sequence=sequence,
            subject=sequence.partition("/")[0],
        )


def camera_joints(numbers: Floats) -> Floats:
    """Returns joints (21, 3) before the colour camera, metres, of a line's 64 numbers."""
    points = simple_from_fpha(numbers[1:].reshape(21, 3))
    return metres(points @ ROTATION.T + TRANSLATION_MM)


def find(root: str, split: str, models: HandModels | None) -> Fpha:  # noqa: ARG001
    """Finds a split; see `Dataset.find`."""
    poses = next((name for name in _POSES if storage.is_folder(storage.below(root, name))), None)
    if poses is None or not storage.is_folder(storage.below(root, "Video_files")):
        raise ConfigError(
            f"{root}: there is no {_POSES[0]} or no Video_files; ROOT must be the folder of {_TITLE} as downloaded"
        )
    by_subject = split in _SUBJECTS
    sequences = _of_subjects(root, poses, _SUBJECTS[split]) if by_subject else _of_file(root, split)
    sequences = [sequence for sequence in sequences if sequence not in _LEFT_OUT]
    if not sequences:
        raise ConfigError(f"{root}: {poses} holds no sequence of the split {split}")
    files = read_all_required(root, (f"{poses}/{name}/skeleton.txt" for name in sequences), _TITLE)
    starts = accumulate((len(_lines(data)) for data in files), initial=0)
    return Fpha(root, split, poses, tuple(sequences), tuple(starts))


def _of_subjects(root: str, poses: str, subjects: tuple[str, ...]) -> list[str]:
    folder = storage.below(root, poses)
    keys = (storage.key_below(folder, file.uri) for file in storage.list_files(folder))
    names = [key.removesuffix("/skeleton.txt") for key in keys if key.endswith("/skeleton.txt")]
    return sorted(name for name in names if name.split("/")[0].removeprefix("Subject_") in subjects)


def _of_file(root: str, split: str) -> list[str]:
    """The sequences of the published split by actions, in the file's order."""
    parts: dict[str, list[str]] = {"actions-train": [], "actions-test": []}
    part = None
    for line in read_required(root, _SPLIT_FILE, _TITLE).decode("utf-8", "replace").splitlines():
        name = line.split(" ")[0].strip()
        if name in ("Training", "Test"):
            part = "actions-train" if name == "Training" else "actions-test"
        elif name and part is not None:
            parts[part].append(name)
    return parts[split]


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode("latin1").splitlines() if line.strip()]


def _numbers(line: str) -> Floats:
    try:
        return array_of([float(word) for word in line.split()], 64, what="skeleton.txt")
    except ValueError as error:
        raise DataError("damaged annotation", f"skeleton.txt: {error}") from error
