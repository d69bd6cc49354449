"""A remote object as a file: seeking costs nothing, and reading fetches few ranges of a fitting size."""

import io
from collections.abc import Callable
from typing import Any

SMALLEST_FETCH = 64 << 10
LARGEST_FETCH = 8 << 20
BLOCKS_KEPT = 4


class RangeFile(io.RawIOBase):
    """Reads an object of known size through `fetch(first, last)`; `head` is what is known of its start.

    A reader that moves on, over gaps too, is served from ever larger fetches (up to 8 MiB), so that the
    headers of a tar cost one request for every 8 MiB and not one for every sample; one that jumps back or
    far ahead, as Parquet readers do, from small ones. A read is short at the end of the object only.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, head: bytes = b"") -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._blocks = [(0, head)]
        self._next_fetch = SMALLEST_FETCH

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to byte {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._size:
            piece = self._piece(min(len(view) - filled, self._size - self._position))
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    def readall(self) -> bytes:
        return self.read(max(0, self._size - self._position)) or b""

    def _piece(self, wanted: int) -> bytes:
        """Returns at least one and at most so many of the bytes from the position on."""
        for first, data in self._blocks:
            if first <= self._position < first + len(data):
                return data[self._position - first : self._position - first + wanted]
        if wanted >= LARGEST_FETCH:
            return self._fetch(self._position, self._position + wanted)
        first, data = self._blocks[-1]
        moves_on = 0 <= self._position - (first + len(data)) <= LARGEST_FETCH
        self._next_fetch = min(2 * self._next_fetch, LARGEST_FETCH) if moves_on else SMALLEST_FETCH
        last = min(self._size, self._position + max(wanted, self._next_fetch))
        data = self._fetch(self._position, last)
        self._blocks = [*self._blocks[1 - BLOCKS_KEPT :], (self._position, data)]
        return data[:wanted]
