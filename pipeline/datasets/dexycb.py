"""DexYCB (github.com/NVlabs/dex-ycb-toolkit), splits s0 to s3.

    SUBJECT/SEQUENCE/meta.yml                          frames, sides, the hand's calibration, objects
    SUBJECT/SEQUENCE/SERIAL/color_%06d.jpg, labels_%06d.npz     640x480, eight cameras
    calibration/intrinsics/SERIAL_640x480.yml, calibration/mano_ID/mano.yml

OpenCV axes, metres, the simple joint order; poses are 45 coefficients of the principal components of the hand's own
side, counted from its mean pose. Frames without a hand have a pose of zeros and joints of -1.
"""

import io
import threading
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any, Final

import numpy as np
import yaml

from pipeline import storage
from pipeline.datasets.benchmark import Frame, NoHand
from pipeline.datasets.conventions import Floats, pose_from_pca
from pipeline.datasets.files import array_of, folders_in, read_all_required, read_required
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.labels import Label, frame_label, hand_label, mano_label
from pipeline.errors import ConfigError, DataError

_TITLE = "DexYCB"
SUBJECTS: Final = 10
SEQUENCES: Final = 100  # of every subject
SERIALS: Final = (
    *("836212060125", "839512060362", "840412060917", "841412060263"),
    *("932122060857", "932122060861", "932122061900", "932122062010"),
)
# Of ycb_ids, which count from 1.
_OBJECTS: Final = (
    *("002_master_chef_can", "003_cracker_box", "004_sugar_box", "005_tomato_soup_can", "006_mustard_bottle"),
    *("007_tuna_fish_can", "008_pudding_box", "009_gelatin_box", "010_potted_meat_can", "011_banana"),
    *("019_pitcher_base", "021_bleach_cleanser", "024_bowl", "025_mug", "035_power_drill", "036_wood_block"),
    *("037_scissors", "040_large_marker", "051_large_clamp", "052_extra_large_clamp", "061_foam_brick"),
)
# numpy parses an array's header with `ast`, which Python 3.11 cannot do in several threads at once.
_HEADERS = threading.Lock()
_MAX_LABEL_BYTES = 64 << 20  # unpacked; the segmentation takes 0.3 MB


@dataclass(frozen=True)
class Chosen:
    """What a split takes: subjects, cameras, and sequences by their number within the subject, all from 0."""

    subjects: tuple[int, ...]
    serials: tuple[int, ...]
    sequences: tuple[int, ...]


def chosen_by(split: str) -> Chosen:
    """Returns what a split takes.

    The toolkit's four ways of splitting: by sequence, by subject, by camera, by grasped object.
    """
    setup, part = split.split("_")
    subjects, serials = tuple(range(SUBJECTS)), tuple(range(len(SERIALS)))
    sequences = tuple(range(SEQUENCES))
    if setup == "s0":
        fifth = part != "train"
        sequences = tuple(number for number in sequences if (number % 5 == 4) == fifth)
        subjects = {"train": subjects, "val": (0, 1), "test": tuple(range(2, SUBJECTS))}[part]
    elif setup == "s1":
        subjects = {"train": (0, 1, 2, 3, 4, 5, 9), "val": (6,), "test": (7, 8)}[part]
    elif setup == "s2":
        serials = {"train": (0, 1, 2, 3, 4, 5), "val": (6,), "test": (7,)}[part]
    else:
        objects = {"val": (3, 19), "test": (7, 11, 15)}
        objects["train"] = tuple(set(range(20)) - {3, 7, 11, 15, 19})
        sequences = tuple(number for number in sequences if number // 5 in objects[part])
    return Chosen(subjects, serials, sequences)


SPLITS: Final = tuple(
    f"{setup}_{part}" for setup, part in product(("s0", "s1", "s2", "s3"), ("train", "val", "test"))
)


@dataclass(frozen=True)
class Track:
    """One camera's frames of one sequence: what they have in common."""

    folder: str  # SUBJECT/SEQUENCE/SERIAL
    frames: int
    side: str
    betas: tuple[float, ...]
    camera: tuple[float, ...]
    object: str | None


@dataclass(frozen=True)
class Dexycb:
    """A split of DexYCB: its tracks in the toolkit's order, and where the frames of each begin among all."""

    root: str
    split: str
    models: HandModels
    tracks: tuple[Track, ...]
    starts: tuple[int, ...]

    @property
    def truth(self) -> tuple[str, ...]:
        return ()

    def __len__(self) -> int:
        return self.starts[-1]

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        place = bisect_right(self.starts, first) - 1
        for index in range(first, last):
            while index >= self.starts[place + 1]:
                place += 1
            track = self.tracks[place]
            key = f"{track.folder}/color_{index - self.starts[place]:06d}"
            yield Frame(index, key, storage.below(self.root, f"{key}.jpg"), track)

    def label(self, frame: Frame) -> Label:
        track: Track = frame.about
        name = frame.key.replace("/color_", "/labels_") + ".npz"
        stored = _read_labels(storage.read(storage.below(self.root, name)))
        joints, numbers = array_of(stored[0], 21, 3, what="joint_3d"), array_of(stored[1], 51, what="pose_m")
        if (joints == -1).all() or not numbers.any():
            raise NoHand("no hand in the picture")
        camera = np.array(track.camera)
        pose = pose_from_pca(numbers[3:48], self.models.of(track.side))
        betas = self.models.betas(track.side, np.array(track.betas))
        mano = mano_label(numbers[:3], pose, betas, joints[0])
        subject, sequence, _ = track.folder.split("/")
        return frame_label(
            "dexycb",
            self.split,
            frame.index,
            camera,
            hand_label(track.side, camera, joints=joints, mano=mano),
            tips="manopth",
            hand_model=self.models.name,
            sequence=f"{subject}/{sequence}",
            subject=subject,
            object=track.object,
        )


def find(root: str, split: str, models: HandModels | None) -> Dexycb:
    """Finds a split; see `Dataset.find`."""
    assert models is not None, "the table says that DexYCB needs MANO"
    chosen = chosen_by(split)
    sequences = _sequences(root, chosen)
    cameras = {SERIALS[number]: _camera(root, SERIALS[number]) for number in chosen.serials}
    hands: dict[str, tuple[float, ...]] = {}
    tracks = []
    metas = read_all_required(root, (f"{name}/meta.yml" for name in sequences), _TITLE)
    for name, data in zip(sequences, metas, strict=True):
        frames, side, calibration, thing = _meta(f"{root}/{name}/meta.yml", data)
        if side == "left" and models.left is None:
            raise ConfigError(f"{name} is of a left hand: --mano must be a folder with MANO_LEFT.pkl too")
        if calibration not in hands:
            hands[calibration] = _betas(root, calibration)
        tracks += [
            Track(f"{name}/{serial}", frames, side, hands[calibration], camera, thing)
            for serial, camera in cameras.items()
        ]
    starts = accumulate((track.frames for track in tracks), initial=0)
    return Dexycb(root, split, models, tuple(tracks), tuple(starts))


def _sequences(root: str, chosen: Chosen) -> list[str]:
    """The split's sequences, SUBJECT/SEQUENCE, by subject and then by name; their numbers are the split's."""
    subjects = [name for name in folders_in(root) if "-subject-" in name]
    names = {int(name.rpartition("-")[2]) - 1: name for name in subjects if name.rpartition("-")[2].isdigit()}
    found = []
    for number in chosen.subjects:
        if number not in names:
            raise ConfigError(
                f"{root}: there is no folder of subject {number + 1:02d}; ROOT must be the folder of {_TITLE}"
            )
        below = folders_in(storage.below(root, names[number]))
        if len(below) != SEQUENCES:
            raise ConfigError(
                f"{root}: {names[number]} has {len(below)} sequences, and the splits count on all {SEQUENCES}"
            )
        found += [f"{names[number]}/{below[place]}" for place in chosen.sequences]
    return found


def _meta(uri: str, data: bytes) -> tuple[int, str, str, str | None]:
    """Frames, side, calibration and grasped object of a sequence."""
    meta = _yaml(uri, data)
    try:
        frames, side, calibration = int(meta["num_frames"]), meta["mano_sides"][0], str(meta["mano_calib"][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{uri}: lacks num_frames, mano_sides or mano_calib; fetch it again") from error
    if side not in ("left", "right") or frames < 0:
        raise ConfigError(f"{uri}: a hand of side {side!r} in {frames} frames; fetch it again")
    try:
        thing = _OBJECTS[meta["ycb_ids"][meta["ycb_grasp_ind"]] - 1]
    except (KeyError, IndexError, TypeError):
        thing = None
    return frames, side, calibration, thing


def _camera(root: str, serial: str) -> tuple[float, ...]:
    name = f"calibration/intrinsics/{serial}_640x480.yml"
    colour = _yaml(f"{root}/{name}", read_required(root, name, _TITLE)).get("color")
    values = [colour.get(part) for part in ("fx", "fy", "ppx", "ppy")] if isinstance(colour, dict) else None
    return _calibrated(f"{root}/{name}", values, 4)


def _betas(root: str, calibration: str) -> tuple[float, ...]:
    name = f"calibration/mano_{calibration}/mano.yml"
    values = _yaml(f"{root}/{name}", read_required(root, name, _TITLE)).get("betas")
    return _calibrated(f"{root}/{name}", values, 10)


def _calibrated(uri: str, values: Any, count: int) -> tuple[float, ...]:
    try:
        return tuple(array_of(values, count, what="its numbers").tolist())
    except DataError as error:
        raise ConfigError(f"{uri}: {error}; fetch it again") from error


def _yaml(uri: str, data: bytes) -> dict[str, Any]:
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: is no YAML ({' '.join(str(error).split())}); fetch it again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{uri}: must hold `name: value` lines; fetch it again")
    return content


def _read_labels(data: bytes) -> tuple[Floats, Floats]:
    """joint_3d and pose_m of a label file, without pickles in it and without unpacking more than the bound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            if sum(member.file_size for member in members.infolist()) > _MAX_LABEL_BYTES:
                raise DataError("damaged annotation", "the label file unpacks to more than 64 MiB")
        with _HEADERS, np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["joint_3d"], arrays["pose_m"]
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError("damaged annotation", f"the label file does not load ({error})") from error
