"""From chosen hands to training shards: a shard is a unit of work, and its existence is its commit."""

import io
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.datasets.shards import picture_kind
from pipeline.errors import DataError
from pipeline.flow import Flow, Stage
from pipeline.pictures import pixels, samples_of
from pipeline.pseudo_labels.labels import Belongings, picture_label, region, soft_weight
from pipeline.pseudo_labels.selection import shard_rows
from pipeline.pseudo_labels.survey import UNREADABLE
from pipeline.records import Counts, Sample, Unit, UnitRecord
from pipeline.sinks.parts import Part, part_uri, read_table, write_part
from pipeline.synthesis.labels import to_json
from pipeline.synthesis.shards import shard_uri

Frames = Literal["crop", "whole"]
JPEG_QUALITY = 95
PREFIX = "pseudo-"
FOLDER = "accounts"
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"}

ACCOUNT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64()),
        pa.field("instance_id", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("pose_cluster", pa.int16()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("hand", pa.int32(), nullable=False),
        pa.field("dropped", pa.string()),
    ]
)
"""A row per chosen hand. shard, member, hand: the tar, the sample's key in it, and the number in its `hands`.
dropped: why the hand is not there after all."""


def plan_shards(predictions: str, pictures: int, per_shard: int, version: str) -> list[Unit]:
    """Returns a unit per shard."""
    units = []
    for first in range(0, pictures, per_shard):
        last = min(first + per_shard, pictures)
        name = f"{PREFIX}{first:08d}-{last:08d}"
        units.append(Unit(name, "pseudo", predictions, first, last, size=0, version=version))
    return units


@dataclass(frozen=True)
class ShardWriter:
    """What every worker makes its `WriteShard` of.

    predictions: the output of annotate; units and parts: its units and their committed parts, by unit id.
    crop_factor: how far a hand's box is enlarged where `frames` is crop. power: see `soft_weight`.
    """

    output: str
    predictions: str
    units: Mapping[str, Unit]
    parts: Mapping[str, Part]
    belongings: Belongings
    frames: Frames
    crop_factor: float
    power: float
    per_shard: int

    def __call__(self) -> "WriteShard":
        return WriteShard(self)


class WriteShard:
    """Reads the pictures of a shard's hands again, and writes them with their labels: the account, then the tar."""

    def __init__(self, job: ShardWriter) -> None:
        self.job = job

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit = record.unit
        chosen = shard_rows(self.job.output, unit.first // self.job.per_shard).to_pylist()
        account: list[dict[str, Any]] = []
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for unit_id, rows in groupby(chosen, key=lambda row: row["unit_id"]):
                for members, entries in self._samples(unit_id, list(rows)):
                    account += [{**entry, "shard": unit.unit_id + ".tar"} for entry in entries]
                    for name, data in members:
                        member = tarfile.TarInfo(name)
                        member.size, member.mode = len(data), 0o644
                        archive.addfile(member, io.BytesIO(data))
        written = [entry for entry in account if entry["dropped"] is None]
        samples = len({entry["member"] for entry in written})
        counts = Counts(
            samples=unit.last - unit.first,
            samples_with_hands=samples,
            samples_rejected=unit.last - unit.first - samples,
            hands=len(account),
            hands_annotated=len(written),
            hands_rejected=len(account) - len(written),
            rejects={UNREADABLE: len(account) - len(written)} if len(written) < len(account) else {},
        )
        table = pa.Table.from_pylist(account, schema=ACCOUNT)
        write_part(part_uri(self.job.output, FOLDER, unit.unit_id), table, {"counts": counts.to_json()})
        storage.put(shard_uri(self.job.output, unit), stream.getvalue())
        return replace(record, counts=counts).timed("write", time.perf_counter() - started)

    def _samples(
        self, unit_id: str, chosen: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[list[tuple[str, bytes]], list[dict[str, Any]]]]:
        """Yields, picture by picture of a unit, the shard's members and the rows of the account."""
        job, unit = self.job, self.job.units[unit_id]
        table = read_table(job.predictions, "annotations", job.parts[unit_id])
        about = {row["row"]: row for row in chosen}
        for rows, sample in samples_of(job.predictions, unit, table, list(about)):
            hands = table.take(rows).to_pylist()
            weights = [soft_weight(hand["confidence"], job.power) for hand in hands]
            name = f"{about[rows[0]]['number']:08d}"
            entries = [
                {
                    **{item: hand[item] for item in _COPIED},
                    "weight": weight,
                    "pose_cluster": about[row]["pose_cluster"],
                    "member": name,
                    "hand": number,
                    "dropped": None,
                }
                for number, (row, hand, weight) in enumerate(zip(rows, hands, weights, strict=True))
            ]
            try:
                data, ending, origin = self._picture(sample, hands)
            except DataError:
                yield [], [{**entry, "dropped": UNREADABLE} for entry in entries]
                continue
            label = picture_label(hands, weights, job.belongings, origin)
            yield [(name + ending, data), (name + ".json", to_json(label).encode())], entries

    def _picture(
        self, sample: Sample, hands: Sequence[Mapping[str, Any]]
    ) -> tuple[bytes, str, tuple[int, int]]:
        """The picture's bytes, their ending, and where in the whole picture it begins.

        Raises:
            DataError: the picture cannot be had.
        """
        if self.job.frames == "whole" and sample.error is None and isinstance(sample.image, bytes):
            try:
                return sample.image, _ENDINGS[picture_kind(sample.image)], (0, 0)
            except DataError:
                # Neither JPEG nor PNG: what shards hold is made of it, without loss.
                return _encoded(pixels(sample), ".png"), ".png", (0, 0)
        image = pixels(sample)
        if isinstance(image, DataError):
            raise image
        if self.job.frames == "whole":
            return _encoded(image, ".jpg"), ".jpg", (0, 0)
        height, width = image.shape[:2]
        left, top, right, bottom = region(hands, self.job.crop_factor, width, height)
        return _encoded(image[top:bottom, left:right], ".jpg"), ".jpg", (left, top)


_COPIED = ("source", "key", "frame_index", "instance_id", "side", "confidence")


def _encoded(image: NDArray[np.uint8] | DataError, ending: str) -> bytes:
    if isinstance(image, DataError):
        raise image
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if ending == ".jpg" else []
    done, data = cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]), quality)
    if not done:
        height, width = image.shape[:2]
        raise DataError("image too large", f"{width}x{height} pixels do not fit a {ending[1:].upper()}")
    return data.tobytes()


def shards_flow(writer: ShardWriter) -> Flow:
    """Returns the one stage that writes shards."""
    return Flow("pseudo-label", (Stage("write", writer, cpus=1.0),))
