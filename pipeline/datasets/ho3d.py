"""HO-3D version 2 and 3 (github.com/shreyashampali/ho3d), with the evaluation's truth where it lies at the root.

    train.txt, evaluation.txt              a line per frame: SEQ/ID, in the order that submissions keep
    <split>/SEQ/rgb/ID.png                 640x480; .jpg in version 3
    <split>/SEQ/meta/ID.pkl                camera, joints, pose; of the evaluation only camera, root and box
    evaluation_xyz.json, evaluation_verts.json

OpenGL axes, MANO's joint order with the tips behind, poses relative to the flat hand, right hands only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.pickles import BINARY_OPCODES, TEXT_OPCODES, ArrayError, Dialect, PickleRefused, load, plain
from pipeline import storage
from pipeline.datasets.benchmark import Frame, NoHand
from pipeline.datasets.conventions import (
    camera_of,
    opencv_from_opengl,
    orient_from_opengl,
    simple_from_ho3d,
)
from pipeline.datasets.files import array_of, entry, read_required, rows_of, same_place
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.json_rows import JsonRows
from pipeline.datasets.labels import Label, frame_label, hand_label, mano_label
from pipeline.errors import ConfigError, DataError

_ENDINGS = {"ho3d-v2": ".png", "ho3d-v3": ".jpg"}
_META = Dialect(whose="HO-3D's own file", opcodes=BINARY_OPCODES | TEXT_OPCODES, max_opcodes=5000)
_MAX_META_BYTES = 4 << 20
_KEYS = ("camMat", "handJoints3D", "handPose", "handBeta", "handBoundingBox", "objName")
_SAME_ROOT_M = 0.005


@dataclass(frozen=True)
class Ho3d:
    """A split of HO-3D; `name` is ho3d-v2 or ho3d-v3."""

    name: str
    root: str
    split: str
    lines: tuple[str, ...]
    hand_model: str | None
    xyz: JsonRows | None = None
    verts: JsonRows | None = None

    @property
    def truth(self) -> tuple[str, ...]:
        return tuple(storage.name_of(rows.uri) for rows in (self.xyz, self.verts) if rows is not None)

    def __len__(self) -> int:
        return len(self.lines)

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        xyz = [None] * (last - first) if self.xyz is None else self.xyz.read(first, last)
        verts = [None] * (last - first) if self.verts is None else self.verts.read(first, last)
        for index, *truth in zip(range(first, last), xyz, verts, strict=True):
            key = self.lines[index]
            yield Frame(index, key, _image(self.root, self.name, self.split, key), tuple(truth))

    def label(self, frame: Frame) -> Label:
        sequence, _, number = frame.key.partition("/")
        data = storage.read(storage.below(self.root, f"{self.split}/{sequence}/meta/{number}.pkl"))
        meta = read_meta(data)
        if any(meta.get(name) is None for name in ("camMat", "handJoints3D")):
            raise NoHand("not annotated")
        camera = camera_of(entry(meta, "camMat", 3, 3))
        hand = self._tested(meta, camera, frame) if self.split == "evaluation" else _posed(meta, camera)
        name = meta.get("objName")
        return frame_label(
            self.name,
            self.split,
            frame.index,
            camera,
            hand,
            tips="ho3d",
            hand_model=self.hand_model,
            sequence=sequence,
            object=name if isinstance(name, str) else None,
        )

    def _tested(self, meta: dict[str, Any], camera: np.ndarray, frame: Frame) -> Label:
        """A hand of the evaluation: box and root, and the published truth where there is some."""
        root = opencv_from_opengl(entry(meta, "handJoints3D", 3))
        left, top, right, bottom = entry(meta, "handBoundingBox", 4)
        joints = vertices = None
        if self.xyz is not None:
            joints = simple_from_ho3d(opencv_from_opengl(array_of(frame.about[0], 21, 3, what="truth")))
            if not same_place(joints[0], root, _SAME_ROOT_M):
                raise DataError("truth of another frame", "its wrist is not where the frame's own root is")
        if self.verts is not None:
            vertices = opencv_from_opengl(array_of(frame.about[1], 778, 3, what="truth"))
        bbox = (left, top, right - left, bottom - top)
        return hand_label("right", camera, joints=joints, vertices=vertices, root=root, bbox=bbox)


def _posed(meta: dict[str, Any], camera: np.ndarray) -> Label:
    """A hand of the training split: joints and MANO's parameters."""
    if any(meta.get(name) is None for name in ("handPose", "handBeta")):
        raise NoHand("not annotated")
    joints = simple_from_ho3d(opencv_from_opengl(entry(meta, "handJoints3D", 21, 3)))
    pose = entry(meta, "handPose", 48)
    # The wrist is a joint of its own: no need of MANO to get there from `handTrans`.
    mano = mano_label(orient_from_opengl(pose[:3]), pose[3:], entry(meta, "handBeta", 10), joints[0])
    return hand_label("right", camera, joints=joints, mano=mano)


def read_meta(data: bytes) -> dict[str, Any]:
    """Returns what a frame's pickle says of the hand; nothing in the file is executed.

    Raises:
        DataError: it is damaged, or holds what HO-3D's own files never do.
    """
    if len(data) > _MAX_META_BYTES:
        raise DataError("damaged annotation", f"a meta file of {len(data)} bytes")
    try:
        stored = load(data, _META)
        return {name: plain(stored[name]) for name in _KEYS if name in stored}
    except (PickleRefused, ArrayError) as error:
        raise DataError("damaged annotation", f"the meta file was refused: {error}") from error


def find_v2(root: str, split: str, models: HandModels | None) -> Ho3d:
    """Finds a split of version 2; see `Dataset.find`."""
    return _find("ho3d-v2", root, split, models)


def find_v3(root: str, split: str, models: HandModels | None) -> Ho3d:
    """Finds a split of version 3; see `Dataset.find`."""
    return _find("ho3d-v3", root, split, models)


def _find(name: str, root: str, split: str, models: HandModels | None) -> Ho3d:
    text = read_required(root, f"{split}.txt", "HO-3D").decode("utf-8", "replace")
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    odd = next((line for line in lines if not _is_frame(line)), None)
    if odd is not None or not lines:
        raise ConfigError(f"{root}: {split}.txt must hold lines such as ABF10/0000, not {odd or ''!r}")
    _require_version(name, root, split, lines[0])
    xyz = verts = None
    if split == "evaluation":
        xyz, verts = rows_of(root, "evaluation_xyz.json"), rows_of(root, "evaluation_verts.json")
    for file, rows in (("evaluation_xyz.json", xyz), ("evaluation_verts.json", verts)):
        if rows is not None and len(rows) != len(lines):
            raise ConfigError(f"{root}: {file} has {len(rows)} rows, evaluation.txt {len(lines)} lines")
    return Ho3d(name, root, split, lines, None if models is None else models.name, xyz, verts)


def _is_frame(line: str) -> bool:
    sequence, slash, number = line.partition("/")
    return bool(slash) and all(part and part.replace("_", "").isalnum() for part in (sequence, number))


def _require_version(name: str, root: str, split: str, line: str) -> None:
    """Raises ConfigError where the first frame's picture is there, but as the other version has it."""
    (other,) = _ENDINGS.keys() - {name}
    mine, others = (_image(root, version, split, line) for version in (name, other))
    if storage.stat(mine) is None and storage.stat(others) is not None:
        raise ConfigError(
            f"{root}: its pictures end in {_ENDINGS[other]}, so this is {other}; {name} was asked for"
        )


def _image(root: str, name: str, split: str, line: str) -> str:
    sequence, _, number = line.partition("/")
    return storage.below(root, f"{split}/{sequence}/rgb/{number}{_ENDINGS[name]}")
