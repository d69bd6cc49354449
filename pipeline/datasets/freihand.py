"""FreiHAND (github.com/lmb-freiburg/freihand), with the evaluation's truth where it lies at the root.

    training/rgb/%08d.jpg                  224x224; four pictures of every pose: number + poses * version
    evaluation/rgb/%08d.jpg
    <split>_K.json, _xyz.json, _verts.json, _mano.json      a row per pose; of the evaluation at least _K.json

OpenCV axes, metres, the simple joint order, right hands; poses are offsets from MANO's mean pose.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import storage
from pipeline.datasets.benchmark import Frame
from pipeline.datasets.conventions import camera_of, pose_from_offsets
from pipeline.datasets.files import array_of, require_rows
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.json_rows import JsonRows
from pipeline.datasets.labels import Label, frame_label, hand_label, mano_label
from pipeline.errors import ConfigError

_TITLE = "FreiHAND"
_TRUTH = ("xyz", "verts", "mano")
_VERSIONS = 4  # green screen, and three ways of giving it another background
_SIZE = 224


@dataclass(frozen=True)
class Freihand:
    """A split of FreiHAND: `rows` of K and of what truth there is, by the ends of the files' names."""

    root: str
    split: str
    models: HandModels
    rows: dict[str, JsonRows]
    versions: int

    @property
    def truth(self) -> tuple[str, ...]:
        return tuple(storage.name_of(rows.uri) for name, rows in self.rows.items() if name in _TRUTH)

    def __len__(self) -> int:
        return len(self.rows["K"]) * self.versions

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        poses = len(self.rows["K"])
        while first < last:
            row = first % poses
            count = min(last - first, poses - row)
            read = {name: rows.read(row, row + count) for name, rows in self.rows.items()}
            for place in range(count):
                index = first + place
                key = f"{self.split}/rgb/{index:08d}"
                about = {name: values[place] for name, values in read.items()}
                yield Frame(index, key, storage.below(self.root, f"{key}.jpg"), about)
            first += count

    def label(self, frame: Frame) -> Label:
        about = frame.about
        camera = camera_of(array_of(about["K"], 3, 3, what="K"))
        joints = vertices = mano = None
        if "xyz" in about:
            joints = array_of(about["xyz"], 21, 3, what="xyz")
        if "verts" in about:
            vertices = array_of(about["verts"], 778, 3, what="verts")
        if "mano" in about and joints is not None:
            # Pose 48, shape 10, and a root in pixels and scale, which xyz gives in metres.
            numbers = array_of(about["mano"], 61, what="mano")
            hand_pose = pose_from_offsets(numbers[3:48], self.models.right)
            mano = mano_label(numbers[:3], hand_pose, numbers[48:58], joints[0])
        # Of the evaluation nobody is given a box: its pictures are crops already.
        bbox = (0, 0, _SIZE, _SIZE) if self.split == "evaluation" else None
        # Four pictures of one pose are no four independent hands: folds and intervals take a sequence as one.
        pose = f"pose {frame.index % len(self.rows['K']):05d}" if self.split == "training" else None
        hand = hand_label("right", camera, joints=joints, vertices=vertices, bbox=bbox, mano=mano)
        return frame_label(
            "freihand",
            self.split,
            frame.index,
            camera,
            hand,
            tips="freihand",
            hand_model=self.models.name,
            sequence=pose,
        )


def find(root: str, split: str, models: HandModels | None) -> Freihand:
    """Finds a split; see `Dataset.find`."""
    assert models is not None, "the table says that FreiHAND needs MANO"
    rows = {"K": require_rows(root, f"{split}_K.json", _TITLE)}
    poses = len(rows["K"])
    for name in _TRUTH:
        file = f"{split}_{name}.json"
        if split == "training" or storage.stat(storage.below(root, file)) is not None:
            rows[name] = require_rows(root, file, _TITLE, poses)
    if not poses:
        raise ConfigError(f"{root}: {split}_K.json holds no rows")
    if not storage.is_folder(storage.below(root, f"{split}/rgb")):
        raise ConfigError(
            f"{root}: there is no {split}/rgb; ROOT must be the folder of {_TITLE} as downloaded"
        )
    versions = 1
    while split == "training" and versions < _VERSIONS and _picture(root, versions * poses):
        versions += 1
    return Freihand(root, split, models, rows, versions)


def _picture(root: str, number: int) -> bool:
    return storage.stat(storage.below(root, f"training/rgb/{number:08d}.jpg")) is not None
