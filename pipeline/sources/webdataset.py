"""WebDataset shards: tar files in which consecutive members of one name make a sample."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, BinaryIO, cast

from pipeline import storage
from pipeline.errors import DataError
from pipeline.names import to_text
from pipeline.records import Sample, Unit
from pipeline.sources import images
from pipeline.sources.source import Extent, Input, Source, require_unchanged, unrepeated
from pipeline.stores.range_file import RangeFile

MAX_MEMBER_BYTES = 1 << 30
MAX_LABEL_BYTES = 64 << 20
MAX_PADDING_BYTES = 4 << 20
# As much of a shard as is held at once, whatever its samples' sizes: most units are one window.
WINDOW_BYTES = 64 << 20

# What `tarfile` raises for headers that are not what they claim to be, and what a file system does.
_UNREADABLE = (
    tarfile.TarError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
    OSError,
)


def split_name(name: str) -> tuple[str, str]:
    """Splits `dir/a.b.jpg` into the key `dir/a` and the ending `.b.jpg`, as WebDataset does."""
    folder, _, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), dot + ending.lower()


@dataclass
class _Group:
    """The members of one sample, by ending; offset and end are bytes of the archive."""

    key: str
    offset: int
    end: int
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)


def _grouped(archive: tarfile.TarFile) -> Iterator[_Group]:
    """Yields samples: consecutive members of one key; an ending that comes again begins another sample.

    Where the archive cannot be read further, the sample that was begun is yielded before the error passes.
    """
    group: _Group | None = None
    try:
        for member in _members(archive):
            key, ending = split_name(to_text(member.name))
            if group is None or key != group.key or ending in group.members:
                if group is not None:
                    yield group
                group = _Group(key, member.offset, archive.offset)
            group.members[ending] = member
            group.end = archive.offset
    except _UNREADABLE:
        if group is not None:
            yield group
        raise
    if group is not None:
        yield group


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields all but folders and forgets it, so that a long archive takes no memory."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        if archive.offset < member.offset_data:
            raise tarfile.ReadError("a member of negative size")
        if not member.isdir():
            yield member


def probe(shard: Input) -> Extent:
    """Reads the headers of a shard, once and in order, and skips what lies between them."""
    keys: list[str] = []
    offsets: list[int] = []
    damage, end, has_boxes, size = None, 0, False, shard.files[0].size
    try:
        with storage.open_input(shard.uri) as stream, _opened(stream) as archive:
            for group in _grouped(archive):
                keys.append(group.key)
                offsets.append(group.offset)
                end = group.end
                has_boxes |= ".json" in group.members
            damage = _unfinished(stream, archive.offset, size)
    except _UNREADABLE as error:
        damage = f"unreadable behind byte {min(end, size)}: {error or type(error).__name__}"
    return Extent(unrepeated(keys), [*offsets, min(end, size)] if keys else [], damage, has_boxes)


def _opened(stream: BinaryIO) -> tarfile.TarFile:
    # What is not UTF-8 must not depend on the machine's locale.
    return tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape")


def _unfinished(stream: BinaryIO, offset: int, size: int) -> str | None:
    """Says why an archive did not end at an end marker; `tarfile` takes a bad header for the end."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if not block:
        return "it ends without an end marker: it may have been cut"
    if block.strip(b"\0"):
        return f"damaged header at byte {offset}"
    # Archives that were joined end to end, or a file whose blocks were lost: no padding is as long as that.
    behind = size - offset
    if behind > MAX_PADDING_BYTES or stream.read(behind).strip(b"\0"):
        return f"the end marker at byte {offset} is not the end: {behind} bytes lie behind it"
    return None


class _Run(RangeFile):
    """The bytes of a unit of a shard as an archive of their own, fetched a window at a time.

    Every window is held against the plan, so that all that is read is of one version; reading raises DataError where
    the shard is gone or another one. Two are kept: where a sample ends is known only from the header behind it, which
    may lie in the next one.
    """

    def __init__(self, unit: Unit) -> None:
        super().__init__(self._window, unit.length)
        self._unit = unit
        self._windows: dict[int, bytes] = {}

    def _piece(self, wanted: int) -> bytes:
        number, at = divmod(self._position, WINDOW_BYTES)
        if number not in self._windows:
            for older in list(self._windows)[:-1]:
                del self._windows[older]
            first = number * WINDOW_BYTES
            self._windows[number] = self._window(first, min(first + WINDOW_BYTES, self._size))
        return self._windows[number][at : at + wanted]

    def _window(self, first: int, last: int) -> bytes:
        data = storage.read_range(self._unit.input, self._unit.offset + first, self._unit.offset + last)
        require_unchanged(self._unit)
        if len(data) < last - first:
            raise DataError("truncated shard", "the shard ends before it")
        return data


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Yields the samples of a run of the shard, fetched by range reads of a window each."""
    count = 0
    problem = DataError("truncated shard", "the shard ends before it")
    try:
        for sample in islice(_samples(unit), len(keys)):
            yield replace(sample, key=keys[count])
            count += 1
    except DataError as error:
        problem = error
    except FileNotFoundError:
        problem = DataError("missing file", "it was there when the job was planned")
    except _UNREADABLE as error:
        problem = DataError("truncated shard", str(error) or type(error).__name__)
    for key in keys[count:]:
        yield Sample(key=key, error=problem)


def read_as_named(unit: Unit) -> Iterator[Sample]:
    """Yields the samples of a run of the shard under the names that they have there; fetched as in `read`.

    Raises:
        DataError: the shard is not the one that was planned, or cannot be read to the run's end.
    """
    count = 0
    try:
        for sample in _samples(unit):
            yield sample
            count += 1
    except FileNotFoundError as error:
        raise DataError("missing file", f"{unit.input}: it was there when the job was planned") from error
    except _UNREADABLE as error:
        raise DataError("truncated shard", f"{unit.input}: {error or type(error).__name__}") from error
    if count < unit.last - unit.first:
        missing = unit.last - unit.first - count
        raise DataError("truncated shard", f"{unit.input}: {missing} of its samples are not there any more")


def _samples(unit: Unit) -> Iterator[Sample]:
    with _opened(cast(BinaryIO, _Run(unit))) as archive:
        for group in _grouped(archive):
            parts = {ending: _content(archive, member) for ending, member in group.members.items()}
            yield _sample(group.key, parts)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | DataError:
    if not member.isreg() or member.issparse():
        return DataError("no image", f"{member.name} is a link, a device or full of holes")
    if member.size > MAX_MEMBER_BYTES:
        return DataError("member too large", f"{member.size} bytes; at most {MAX_MEMBER_BYTES}")
    try:
        stream = archive.extractfile(member)
        data = stream.read() if stream else b""
    except tarfile.TarError:
        data = b""
    if len(data) < member.size:
        return DataError("truncated shard", f"its {member.size} bytes are not all there")
    return data


def _sample(key: str, parts: dict[str, bytes | DataError]) -> Sample:
    pictures = [name for name in parts if "." + name.rsplit(".", 1)[-1] in images.ENDINGS]
    # `.seg.png` and the like stand beside the picture itself.
    ending = min(pictures, key=lambda name: name.count("."), default=None)
    if ending is None:
        found = ", ".join(sorted(parts)) or "nothing"
        return Sample(key=key, error=DataError("no image", f"the sample holds {found}"))
    image = parts[ending]
    if isinstance(image, DataError):
        return Sample(key=key, error=image)
    if ".json" not in parts:
        return Sample(key=key, image=image)
    try:
        label = _label(parts[".json"])
    except DataError as error:
        return Sample(key=key, image=image, error=error)
    return Sample(key=key, image=image, hands=label.get("hands"), camera=label.get("camera"), label=label)


def _label(data: bytes | DataError) -> dict[str, Any]:
    if isinstance(data, DataError):
        raise data
    if len(data) > MAX_LABEL_BYTES:
        raise DataError("unreadable label", f"the .json has {len(data)} bytes; at most {MAX_LABEL_BYTES}")
    try:
        label = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError("unreadable label", f"the .json is not JSON ({error})") from error
    if not isinstance(label, dict):
        raise DataError("unreadable label", f"the .json holds a {type(label).__name__}, not an object")
    return label


SOURCE = Source("webdataset", frozenset({".tar"}), probe, read)
