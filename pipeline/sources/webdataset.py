"""WebDataset shards: tar files in which consecutive members of one name make a sample."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.errors import DataError
from pipeline.records import Sample, Unit
from pipeline.sources import images
from pipeline.sources.source import Extent, Input, Source, unrepeated

MAX_MEMBER_BYTES = 1 << 30


def split_name(name: str) -> tuple[str, str]:
    """Splits `dir/a.b.jpg` into the key `dir/a` and the ending `.b.jpg`, as WebDataset does."""
    folder, _, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), dot + ending.lower()


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the archive's files and forgets them, so that a long archive takes no memory."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        if member.isfile():
            yield member


def probe(shard: Input) -> Extent:
    """Reads the headers of a shard, once and in order, and skips what lies between them."""
    keys: list[str] = []
    offsets: list[int] = []
    damage, end, has_boxes = None, 0, False
    with storage.open_input(shard.uri) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in _members(archive):
                    key, ending = split_name(member.name)
                    if not keys or key != keys[-1]:
                        keys.append(key)
                        offsets.append(member.offset)
                    has_boxes |= ending == ".json"
                    end = archive.offset
                damage = _unfinished(stream, archive.offset)
        except (tarfile.TarError, EOFError, ValueError) as error:
            damage = f"unreadable behind byte {end}: {error}"
        size = shard.files[0].size
    return Extent(unrepeated(keys), [*offsets, min(end, size)] if keys else [], damage, has_boxes)


def _unfinished(stream: BinaryIO, offset: int) -> str | None:
    """Says why an archive did not end at an end marker; `tarfile` takes a bad header for the end."""
    stream.seek(offset if offset % tarfile.BLOCKSIZE == 0 else max(0, offset - tarfile.BLOCKSIZE))
    block = stream.read(tarfile.BLOCKSIZE)
    if not block:
        return "it ends without an end marker: it may have been cut"
    return f"damaged header at byte {offset}" if block.strip(b"\0") else None


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Yields the samples of a run of the shard, fetched by one range read."""
    data = storage.read_range(unit.input, unit.offset, unit.offset + unit.length)
    remaining = iter(keys)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for parts in _grouped(archive):
                key = next(remaining, None)
                if key is None:
                    break
                yield _sample(key, parts)
    except (tarfile.TarError, EOFError, ValueError) as error:
        problem = str(error)
    else:
        problem = "the shard ends before it"
    for key in remaining:
        yield Sample(key=key, error=DataError("truncated shard", problem))


def _grouped(archive: tarfile.TarFile) -> Iterator[dict[str, bytes | DataError]]:
    """Yields the members of each sample by their ending."""
    current: str | None = None
    parts: dict[str, bytes | DataError] = {}
    for member in _members(archive):
        key, ending = split_name(member.name)
        if key != current and current is not None:
            yield parts
            parts = {}
        current = key
        parts[ending] = _content(archive, member)
    if current is not None:
        yield parts


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | DataError:
    if member.size > MAX_MEMBER_BYTES:
        return DataError("member too large", f"{member.size} bytes; at most {MAX_MEMBER_BYTES}")
    stream = archive.extractfile(member)
    data = stream.read() if stream else b""
    if len(data) < member.size:
        return DataError("truncated shard", f"{len(data)} of {member.size} bytes are there")
    return data


def _sample(key: str, parts: dict[str, bytes | DataError]) -> Sample:
    ending = next((name for name in parts if "." + name.rsplit(".", 1)[-1] in images.ENDINGS), None)
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
    return Sample(key=key, image=image, hands=label.get("hands"), camera=label.get("camera"))


def _label(data: bytes | DataError) -> dict[str, Any]:
    if isinstance(data, DataError):
        raise data
    try:
        label = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError("unreadable label", f"the .json is not JSON ({error})") from error
    if not isinstance(label, dict):
        raise DataError("unreadable label", f"the .json holds a {type(label).__name__}, not an object")
    return label


SOURCE = Source("webdataset", frozenset({".tar"}), probe, read)
