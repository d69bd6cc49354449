"""HandOccNet's own annotation files (github.com/namepllet/HandOccNet), which others use for HO-3D and DexYCB too.

    annotations/HO3D_<train|evaluation>_data.json, <train|evaluation>/SEQ/rgb/ID.png
    annotations/DEX_YCB_<s0_train|s0_val|s0_test|...>_data.json, SUBJECT/SEQUENCE/SERIAL/color_%06d.jpg

One object with `images` and `annotations`. OpenCV axes, metres, the simple joint order; poses are offsets from the
mean pose of the hand's own side. Samples stand in the order of `annotations`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets.benchmark import Frame, NoHand
from pipeline.datasets.conventions import Floats, pose_from_offsets
from pipeline.datasets.files import entry
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.json_rows import JsonRows, index_rows
from pipeline.datasets.labels import Label, Pose, frame_label, hand_label, mano_label
from pipeline.errors import ConfigError, DataError

_TITLE = "HandOccNet's annotations"
_BATCH_ROWS = 10_000
_PLAIN_NAME = re.compile(r"(?!.*\.\.)[\w][\w ./-]*\.(png|jpg|jpeg)")


@dataclass(frozen=True)
class Coco:
    """A split of such a file; `dataset` is the benchmark behind it.

    ids: the images' numbers, ascending; rows: where in `images` each of them stands.
    """

    dataset: str
    root: str
    pictures: str
    split: str
    models: HandModels
    annotations: JsonRows
    images: JsonRows
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def truth(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return len(self.annotations)

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        rows = self.annotations.read(first, last)
        places = [self._place(row) for row in rows]
        names = self._names([place for place in places if place is not None])
        for index, row, place in zip(range(first, last), rows, places, strict=True):
            name = None if place is None else names[place]
            if name is None:
                yield Frame(index, f"annotation-{index:08d}", "")
            else:
                image = storage.below(self.root, f"{self.pictures}{name}")
                yield Frame(index, name.rpartition(".")[0], image, row)

    def _place(self, row: Any) -> int | None:
        """The row of an annotation's image."""
        number = row.get("image_id") if isinstance(row, dict) else None
        if type(number) is not int:
            return None
        place = int(np.searchsorted(self.ids, number))
        known = place < len(self.ids) and self.ids[place] == number
        return int(self.rows[place]) if known else None

    def _names(self, places: list[int]) -> dict[int, str | None]:
        """The file names of images, by row; those of one shard mostly stand side by side."""
        ordered = sorted(set(places))
        if not ordered:
            return {}
        side_by_side = ordered[-1] - ordered[0] < 4 * len(ordered)
        spans = [(ordered[0], ordered[-1] + 1)] if side_by_side else [(row, row + 1) for row in ordered]
        found: dict[int, str | None] = {}
        for start, end in spans:
            for place, row in enumerate(self.images.read(start, end), start):
                name = row.get("file_name") if isinstance(row, dict) else None
                found[place] = name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else None
        return found

    def label(self, frame: Frame) -> Label:
        row = frame.about
        if row is None:
            raise DataError("damaged annotation", "it names no picture")
        camera = np.concatenate([entry(row.get("cam_param"), name, 2) for name in ("focal", "princpt")])
        tested = "joints_coord_cam" not in row
        hand = _tested(row, camera) if tested else self._posed(row, camera)
        parts = frame.key.split("/")
        dexycb = self.dataset == "dexycb"
        return frame_label(
            self.dataset,
            self.split,
            # Of DexYCB the file leaves frames out, so that its rows are not numbered as the toolkit's are.
            None if dexycb else frame.index,
            camera,
            hand,
            tips="manopth" if dexycb else "ho3d",
            hand_model=self.models.name,
            sequence="/".join(parts[:2]) if dexycb else parts[0],
            subject=parts[0] if dexycb else None,
        )

    def _posed(self, row: dict[str, Any], camera: Floats) -> Label:
        joints = entry(row, "joints_coord_cam", 21, 3)
        if (joints == -1).all():
            raise NoHand("no hand in the picture")
        side = row.get("hand_type") or "right"
        if side not in ("left", "right"):
            raise DataError("damaged annotation", f"hand_type is {side!r}")
        return hand_label(side, camera, joints=joints, mano=self._mano(row, side, joints))

    def _mano(self, row: dict[str, Any], side: str, joints: Floats) -> Pose | None:
        if row.get("mano_param") is None:
            return None
        pose = entry(row["mano_param"], "pose", 48)
        betas = self.models.betas(side, entry(row["mano_param"], "shape", 10))
        return mano_label(pose[:3], pose_from_offsets(pose[3:], self.models.of(side)), betas, joints[0])


def _tested(row: dict[str, Any], camera: Floats) -> Label:
    """A hand of HO-3D's evaluation: box and root."""
    return hand_label("right", camera, root=entry(row, "root_joint_cam", 3), bbox=entry(row, "bbox", 4))


def find(root: str, split: str, models: HandModels | None) -> Coco:
    """Finds a split; see `Dataset.find`."""
    assert models is not None, "the table says that these files need MANO"
    dataset, file = ("ho3d-v2", "HO3D") if split in ("train", "evaluation") else ("dexycb", "DEX_YCB")
    name = f"annotations/{file}_{split}_data.json"
    uri = storage.below(root, name)
    if storage.stat(uri) is None:
        raise ConfigError(f"{root}: there is no {name}; ROOT must be the folder that holds `annotations`")
    found = index_rows(uri)
    if not {"images", "annotations"} <= found.keys():
        raise ConfigError(f"{uri}: must be an object with `images` and `annotations`")
    images, annotations = found["images"], found["annotations"]
    ids, rows = _sorted_ids(images)
    if dataset == "dexycb" and models.left is None:
        raise ConfigError(f"{uri} names left hands too: --mano must be a folder with MANO_LEFT.pkl as well")
    pictures = f"{split}/" if dataset == "ho3d-v2" else ""
    return Coco(dataset, root, pictures, split, models, annotations, images, ids, rows)


def _sorted_ids(images: JsonRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the images, ascending, and where each of them stands; a row without one counts as -1."""
    numbers = [
        row["id"] if isinstance(row, dict) and type(row.get("id")) is int else -1
        for batch in images.batches(_BATCH_ROWS)
        for row in batch
    ]
    ids = np.array(numbers, np.int64)
    order = np.argsort(ids, kind="stable")
    return ids[order], order
