"""What flows: samples, hands and unit records, and the Arrow schemas of everything that is written.

Units and frames: pixels have their centres at integers, x right, y down; 3D is in metres with the wrist at the
origin and camera axes (x right, y down, z away); rotations are axis-angle in radians.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import DataError

SCHEMA_VERSION = "1"
MAX_HANDS = 1000  # in one image


def _vector(*shape: int) -> pa.DataType:
    """Returns a (nested) fixed-size list of float32, which DuckDB, Polars and pandas all read."""
    dtype: pa.DataType = pa.float32()
    for size in reversed(shape):
        dtype = pa.list_(dtype, size)
    return dtype


_IDENTITY = [
    pa.field("instance_id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("frame_index", pa.int64()),
    pa.field("timestamp", pa.float64()),
    pa.field("hand_index", pa.int32(), nullable=False),
    pa.field("side", pa.string(), nullable=False),
    pa.field("side_source", pa.string(), nullable=False),
    pa.field("image_width", pa.int32(), nullable=False),
    pa.field("image_height", pa.int32(), nullable=False),
    pa.field("bbox", _vector(4), nullable=False),
    pa.field("bbox_score", pa.float32()),
    pa.field("bbox_source", pa.string(), nullable=False),
    pa.field("camera", pa.list_(pa.float32())),
    pa.field("camera_source", pa.string()),
]

HANDS = pa.schema(
    [
        *_IDENTITY,
        pa.field("crop_outside", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("crop_to_image", pa.list_(pa.float64(), 6), nullable=False),
        pa.field("mirrored", pa.bool_(), nullable=False),
        pa.field("ledger_row", pa.int32(), nullable=False),
    ]
)
"""A hand that has a crop. `crop_to_image` is a 2x3 affine, row by row, from crop pixels to pixels of the
original image, un-mirroring included."""

ANNOTATIONS = pa.schema(
    [
        *_IDENTITY,
        pa.field("global_orient", _vector(3), nullable=False),
        pa.field("hand_pose", _vector(45), nullable=False),
        pa.field("betas", _vector(10), nullable=False),
        pa.field("joints", _vector(21, 3), nullable=False),
        pa.field("joints_2d", _vector(21, 2), nullable=False),
        pa.field("vertices", _vector(778, 3), nullable=False),
        pa.field("translation", pa.list_(pa.float32())),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("joint_confidence", _vector(21), nullable=False),
        pa.field("mesh", pa.string()),
        # What a network with an error head predicts of its own errors.
        pa.field("predicted_error_mm", pa.float32()),
        pa.field("predicted_joint_errors_mm", pa.list_(pa.float32())),
        # What `pipeline.quality` says of the hand; none of it needs a label.
        pa.field("crop_outside", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("heatmap_entropy", pa.float32()),
        pa.field("reprojection_error", pa.float32()),
        pa.field("bone_deviation", pa.float32()),
        pa.field("joint_limit_excess", pa.float32()),
        pa.field("flip_error_mm", pa.float32()),
        pa.field("shift_error_mm", pa.float32()),
        pa.field("expected_error_mm", pa.float32()),
    ]
)
"""One row per annotated hand; `vertices` is left out of the file unless it is asked for."""

LEDGER = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("frame_index", pa.int64()),
        pa.field("timestamp", pa.float64()),
        pa.field("hand_index", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
    ]
)
"""One row per hand asked for and one per sample without any; `key` is null for the unreadable rest of an input."""

PLAN = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("damage", pa.string()),
        pa.field("keys_part", pa.string()),
        pa.field("keys_row", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
    ]
)
KEYS = pa.schema(
    [
        pa.field("keys", pa.list_(pa.string()), nullable=False),
        pa.field("versions", pa.list_(pa.string()), nullable=False),
    ]
)
"""What the plan keeps of a unit's samples; `versions` of loose images only, whose files may change one by one."""


@dataclass(frozen=True)
class Unit:
    """A bounded slice of one input, the step by which work is committed.

    `first` and `last` count samples of the input, half open. `version` changes when the slice's content does.
    `offset` and `length` are bytes inside the input, for sources that seek. `damage` says what of the input
    could not be read behind this unit. `keys_part` and `keys_row` say where the plan keeps the samples' keys.
    `name` is the input's path below the root that was given.
    """

    unit_id: str
    source: str
    input: str
    first: int
    last: int
    size: int
    version: str
    offset: int = 0
    length: int = 0
    damage: str | None = None
    keys_part: str | None = None
    keys_row: int = 0
    name: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Sample:
    """One image as it was stored: its encoded bytes, or its decoded RGB pixels, or why there are none.

    `label` is all that a shard says of it, `hands` and `camera` included.
    """

    key: str
    image: bytes | NDArray[np.uint8] = b""
    hands: Any = None
    camera: Any = None
    label: Any = None
    frame_index: int | None = None
    timestamp: float | None = None
    error: DataError | None = None


@dataclass(frozen=True)
class HandBox:
    """A hand that is asked for: bbox (x, y, w, h) in pixels of the original image, and whose hand it is.

    camera: fx, fy, cx, cy as the input gives them, or what is wrong with what it gives.
    """

    bbox: tuple[float, float, float, float]
    side: str
    side_source: str
    bbox_source: str
    score: float | None = None
    camera: tuple[float, float, float, float] | DataError | None = None


@dataclass(frozen=True)
class Counts:
    """What became of a unit's samples and hands; the sums must hold."""

    samples: int = 0
    samples_with_hands: int = 0
    samples_without_hands: int = 0
    samples_rejected: int = 0
    hands: int = 0
    hands_annotated: int = 0
    hands_rejected: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_ledger(cls, ledger: pa.Table) -> "Counts":
        """Counts a unit's ledger."""
        samples: dict[tuple[str | None, int | None], set[str]] = {}
        hands = annotated = 0
        rejects: dict[str, int] = {}
        for row in ledger.to_pylist():
            # The unreadable rest of an input, which has no key, is no sample that anybody could count.
            if row["key"] is not None:
                samples.setdefault((row["key"], row["frame_index"]), set()).add(row["status"])
            if row["hand_index"] is not None:
                hands += 1
                annotated += row["status"] == "annotated"
            if row["status"] == "rejected":
                kind = row["reason"].split(":", 1)[0]
                rejects[kind] = rejects.get(kind, 0) + 1
        with_hands = sum("annotated" in states for states in samples.values())
        without = sum(states == {"no_hand"} for states in samples.values())
        return cls(
            samples=len(samples),
            samples_with_hands=with_hands,
            samples_without_hands=without,
            samples_rejected=len(samples) - with_hands - without,
            hands=hands,
            hands_annotated=annotated,
            hands_rejected=hands - annotated,
            rejects=dict(sorted(rejects.items())),
        )

    def __add__(self, other: "Counts") -> "Counts":
        sums: dict[str, Any] = {
            item.name: getattr(self, item.name) + getattr(other, item.name)
            for item in fields(self)
            if item.name != "rejects"
        }
        kinds = sorted({*self.rejects, *other.rejects})
        rejects = {kind: self.rejects.get(kind, 0) + other.rejects.get(kind, 0) for kind in kinds}
        return Counts(**sums, rejects=rejects)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Counts":
        return cls(**json.loads(text))


def no_crops(size: int = 1) -> NDArray[np.uint8]:
    """Returns the crops of a unit that has none (left), [0, size, size, 3]."""
    return np.zeros((0, size, size, 3), np.uint8)


@dataclass(frozen=True)
class UnitRecord:
    """One unit on its way through the stages: one row of the dataset.

    crops: uint8 [n, S, S, 3], RGB, one per row of `hands`; left hands mirrored.
    hands: HANDS until inference, then ANNOTATIONS, then empty.
    seconds: how long each stage worked on this unit.
    deadly: workers have died over this unit, which a stage that can must do where no worker dies of it.
    """

    unit: Unit
    ledger: pa.Table = field(default_factory=LEDGER.empty_table)
    hands: pa.Table = field(default_factory=HANDS.empty_table)
    crops: NDArray[np.uint8] = field(default_factory=no_crops)
    counts: Counts = field(default_factory=Counts)
    seconds: Mapping[str, float] = field(default_factory=dict)
    deadly: bool = False

    def timed(self, stage: str, seconds: float) -> "UnitRecord":
        """Returns the record with the seconds of one more stage."""
        return replace(self, seconds={**self.seconds, stage: seconds})


def to_ipc(table: pa.Table) -> bytes:
    """Returns a table as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.Table:
    """Returns the table of an Arrow IPC stream."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
