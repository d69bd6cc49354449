"""Rows of JSON arrays too long to be parsed whole: their places in the file, found in one pass over its bytes.

The benchmarks keep truth and annotations in single JSON files of up to some gigabytes, of which a shard needs a
few hundred rows. Parsed whole, they would take tens of gigabytes in every worker.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import ConfigError

_CHUNK_BYTES = 8 << 20
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*$')
_KEY_BYTES = 300

# How each byte changes the depth; quotes are marked beside them.
_STEP = np.zeros(256, np.int64)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_MARKS = _STEP != 0
_MARKS[ord('"')] = True


@dataclass(frozen=True)
class JsonRows:
    """An array of arrays or objects inside a JSON file: bytes [starts[i], ends[i]) are row i."""

    uri: str
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, first: int, last: int) -> list[Any]:
        """Returns rows first … last - 1, parsed; None for a row that is no JSON."""
        if first >= last:
            return []
        begin = int(self.starts[first])
        data = storage.read_range(self.uri, begin, int(self.ends[last - 1]))
        bounds = zip(self.starts[first:last] - begin, self.ends[first:last] - begin, strict=True)
        return [_parsed(data[start:end]) for start, end in bounds]

    def batches(self, rows: int) -> Iterator[list[Any]]:
        """Yields all rows, parsed, so many at a time."""
        for first in range(0, len(self), rows):
            yield self.read(first, min(first + rows, len(self)))


def _parsed(row: bytes) -> Any:
    try:
        return json.loads(row)
    except ValueError:
        return None


def index_rows(uri: str) -> dict[str, JsonRows]:
    """Returns the arrays of a JSON file by their keys; a file that is one array has the key "".

    Raises:
        ConfigError: the file is cut short, or is no such JSON.
        OSError: it cannot be had.
    """
    with storage.open_input(uri) as stream:
        found = _scan(stream, uri)
    return {key: JsonRows(uri, starts, ends) for key, (starts, ends) in found.items()}


def _scan(stream: BinaryIO, uri: str) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Finds the brackets outside of strings, and with them where every row begins and ends."""
    places, depths = [], []
    base, depth, quoted, offset = 0, 0, 0, 0
    sections: list[tuple[int, str]] = []
    before = b""
    while chunk := _next_chunk(stream):
        data = np.frombuffer(_without_escapes(chunk), np.uint8)
        marks = np.flatnonzero(_MARKS[data])
        inside = (np.cumsum(data[marks] == ord('"')) + quoted) & 1
        quoted = int(inside[-1]) if len(inside) else quoted
        marks = marks[(inside == 0) & (data[marks] != ord('"'))]
        after = depth + np.cumsum(_STEP[data[marks]])
        if base == 0 and len(marks):
            base = 1 if data[marks[0]] == ord("[") else 2
        if base == 2:
            for mark in marks[(after == 2) & (_STEP[data[marks]] > 0)]:
                key = _KEY.search((before + chunk[:mark])[-_KEY_BYTES:])
                array = data[mark] == ord("[")
                sections.append((offset + int(mark), key.group(1).decode() if key and array else ""))
        bounds = ((after == base + 1) & (_STEP[data[marks]] > 0)) | (
            (after == base) & (_STEP[data[marks]] < 0)
        )
        places.append(marks[bounds] + offset)
        depths.append(after[bounds])
        depth = int(after[-1]) if len(after) else depth
        offset += len(chunk)
        before = chunk[-_KEY_BYTES:]
    if base == 0 or depth != 0 or quoted:
        raise ConfigError(f"{uri}: is no whole JSON array or object (cut short?); fetch it again")
    where, level = np.concatenate(places), np.concatenate(depths)
    starts, ends = where[level == base + 1], where[level == base] + 1
    if len(starts) != len(ends):
        raise ConfigError(f"{uri}: its brackets do not match; fetch it again")
    if base == 1:
        return {"": (starts, ends)}
    bounds_of = [*(place for place, _ in sections), offset]
    found = {}
    for (place, name), following in zip(sections, bounds_of[1:], strict=True):
        if name:
            within = slice(*np.searchsorted(starts, [place, following]))
            found[name] = (starts[within], ends[within])
    return found


def _next_chunk(stream: BinaryIO) -> bytes:
    """Reads on, and never stops between a backslash and what it escapes."""
    chunk = stream.read(_CHUNK_BYTES)
    while chunk.endswith(b"\\") and (more := stream.read(1)):
        chunk += more
    return chunk


def _without_escapes(chunk: bytes) -> bytes:
    return re.sub(rb"\\.", b"  ", chunk, flags=re.DOTALL) if b"\\" in chunk else chunk
