"""From a benchmark's frames to training shards: a unit is a run of frames, and becomes one tar."""

import io
import json
import tarfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline import storage
from pipeline.datasets.agreement import Agreement, agreement
from pipeline.datasets.benchmark import Benchmark, Frame, NoHand
from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.labels import Label, to_json
from pipeline.errors import ConfigError, DataError
from pipeline.flow import Flow, Stage
from pipeline.records import LEDGER, Counts, Unit, UnitRecord
from pipeline.sinks.parts import part_uri, read_metadata, write_part
from pipeline.synthesis.shards import shard_uri

_ENDINGS = {"JPEG": ".jpg", "PNG": ".png"}
_REQUESTS_AT_ONCE = 32
_FRAMES_AT_ONCE = 8  # of one shard: a frame waits for two small files one after the other


def plan_shards(name: str, split: str, root: str, frames: int, per_shard: int) -> list[Unit]:
    """Returns a unit per shard for all frames of a split, in the benchmark's order."""
    units = []
    for first in range(0, frames, per_shard):
        last = min(first + per_shard, frames)
        unit_id = f"{name}-{split.replace('_', '-')}-{first:08d}-{last:08d}"
        units.append(Unit(unit_id, name, root, first, last, size=0, version=split))
    return units


@dataclass(frozen=True)
class _Taken:
    """What became of a frame: its row of the ledger and, where it can be used, its label and files of the shard."""

    row: dict[str, Any]
    label: Label | None = None
    members: tuple[tuple[str, bytes], ...] = ()


class PrepareShard:
    """Reads a unit's frames and writes what can be used of them as one WebDataset tar, the ledger before it."""

    def __init__(self, output: str, benchmark: Benchmark, models: HandModels | None) -> None:
        self.output, self.benchmark, self.models = output, benchmark, models

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit = record.unit
        with ThreadPoolExecutor(_FRAMES_AT_ONCE) as pool:
            taken = list(pool.map(self._taken, self.benchmark.frames(unit.first, unit.last)))
        rows = [{"source": unit.input, **item.row} for item in taken]
        labels = [item.label for item in taken if item.label is not None]
        members = [member for item in taken for member in item.members]
        ledger = pa.Table.from_pylist(rows, schema=LEDGER)
        counts = Counts.of_ledger(ledger)
        agreed = agreement(labels, None if self.models is None else self.models.right)
        metadata = {
            "counts": counts.to_json(),
            "agreement": json.dumps({side: sums.to_json() for side, sums in agreed.items()}),
        }
        write_part(part_uri(self.output, "ledger", unit.unit_id), ledger, metadata)
        storage.put(shard_uri(self.output, unit), to_tar(members))
        return replace(record, counts=counts).timed("prepare", time.perf_counter() - started)

    def _taken(self, frame: Frame) -> _Taken:
        row = {"key": frame.key, "frame_index": frame.index}
        try:
            label = self._label(frame)
            image, ending = self._image(frame)
        except NoHand as reason:
            return _Taken({**row, "status": "no_hand", "stage": "label", "reason": str(reason)})
        except DataError as error:
            return _Taken({**row, "status": "rejected", "stage": "read", "reason": str(error)})
        members = ((frame.key + ending, image), (frame.key + ".json", to_json(label).encode()))
        return _Taken({**row, "hand_index": 0, "status": "annotated"}, label, members)

    def _label(self, frame: Frame) -> Label:
        try:
            return self.benchmark.label(frame)
        except FileNotFoundError as error:
            raise DataError("missing annotation", storage.name_of(str(error.filename or error))) from error
        except OSError as error:
            raise DataError("unreadable annotation", str(error)) from error

    def _image(self, frame: Frame) -> tuple[bytes, str]:
        """The picture's own bytes, and the ending that they have in the shard."""
        try:
            data = storage.read(frame.image)
        except FileNotFoundError as error:
            raise DataError("missing image", storage.key_below(self.benchmark.root, frame.image)) from error
        except OSError as error:
            raise DataError("unreadable image", str(error)) from error
        return data, _ENDINGS[image_format(data)]


def image_format(data: bytes) -> str:
    """Returns JPEG or PNG for a picture that is there to its end; its pixels are not decoded.

    Raises:
        DataError: it is something else, or cut short.
    """
    found = picture_kind(data)
    # Pillow verifies the checksums of a PNG, but nothing of a JPEG.
    if found == "JPEG" and b"\xff\xd9" not in data[-64:]:
        raise DataError("unreadable image", "the JPEG is cut short")
    return found


def picture_kind(data: bytes) -> str:
    """Returns JPEG or PNG; of a JPEG no more is looked at than its beginning.

    Raises:
        DataError: it is something else, or a damaged PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=tuple(_ENDINGS)) as image:
                # A JPEG with more pictures behind the first, as some cameras write them.
                found = "JPEG" if image.format == "MPO" else str(image.format)
                image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError("unreadable image", f"it is no JPEG or PNG, or a damaged one ({error})") from error
    return found


def to_tar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of these files: the same bytes for the same members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@dataclass(frozen=True)
class ShardPreparer:
    """What every worker makes its `PrepareShard` of."""

    output: str
    benchmark: Benchmark
    models: HandModels | None

    def __call__(self) -> PrepareShard:
        return PrepareShard(self.output, self.benchmark, self.models)


def prepare_flow(preparer: ShardPreparer) -> Flow:
    """Returns the one stage that writes shards."""
    return Flow("prepare", (Stage("prepare", preparer, cpus=1.0),))


@dataclass(frozen=True)
class Account:
    """What a finished shard's ledger says of it."""

    counts: Counts
    agreement: Mapping[str, Agreement]


def accounts(output: str, units: Sequence[Unit]) -> Mapping[str, Account]:
    """Returns the accounts of those units that are done, by unit id.

    Raises:
        ConfigError: the ledger of a finished shard is missing or damaged.
    """
    there = {file.uri for file in storage.list_files(output)}
    done = [unit for unit in units if shard_uri(output, unit) in there]
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return dict(
            zip((unit.unit_id for unit in done), pool.map(lambda u: _account(output, u), done), strict=True)
        )


def _account(output: str, unit: Unit) -> Account:
    try:
        said = read_metadata(output, "ledger", unit.unit_id)
        agreed = {side: Agreement(**sums) for side, sums in json.loads(said["agreement"]).items()}
        return Account(Counts.from_json(said["counts"]), agreed)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        where = part_uri(output, "ledger", unit.unit_id)
        raise ConfigError(
            f"{where}: is missing or damaged ({error}); remove {unit.unit_id}.tar to do that shard again"
        ) from error
