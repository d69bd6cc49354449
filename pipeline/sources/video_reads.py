"""How libav reads a film: which kinds of file it may take for one, its video track, and the track's packets."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline import storage
from pipeline.errors import DataError

Span = tuple[int, int]
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"


class Reads:
    """A storage stream as libav reads it.

    libav takes an error of the storage for the end of the film, and goes on: `error` keeps it. After `skim` it
    gets zeros for whatever it reads, and nothing is fetched.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.error: OSError | None = None
        self.is_skimming = False
        self._stream = stream
        self.size = size
        self._position = 0

    def skim(self) -> None:
        self.is_skimming = True

    def read(self, count: int) -> bytes:
        if self.error is not None:
            return b""
        if self.is_skimming:
            data = bytes(max(0, min(count, self.size - self._position)))
        else:
            try:
                data = self._stream.read(count)
            except OSError as error:
                self.error = error
                return b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        if not self.is_skimming:
            self._stream.seek(self._position)
        return self._position

    def tell(self) -> int:
        return self._position

    def check(self) -> None:
        """Raises the error of the storage that libav did not see, if there was one."""
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class OpenFilm:
    """A film that is open, and the track of moving pictures that is taken from it: its first.

    is_cut: it ends in the middle of its tables.
    """

    container: InputContainer
    track: VideoStream
    reads: Reads
    is_cut: bool

    @property
    def time_base(self) -> Fraction:
        """The seconds in one unit of the track's clock."""
        assert self.track.time_base is not None
        return self.track.time_base

    @property
    def is_avi(self) -> bool:
        return self.container.format.name == "avi"

    @property
    def is_mp4(self) -> bool:
        return "mp4" in self.container.format.name

    @property
    def is_matroska(self) -> bool:
        return "matroska" in self.container.format.name

    @property
    def is_vp8(self) -> bool:
        return self.track.codec_context.name in ("vp8", "libvpx")

    def packets(self, spans: list[Span] | None = None) -> "Iterator[Packet[VideoStream]]":
        """Yields the whole packets of the track, as they are stored, from where the film stands.

        AVI states no presentation times, and libav's guesses depend on where reading began: there the place
        in the file stands for them. `spans` takes the bytes in which packets lie, those of other tracks too.

        Raises:
            OSError: the storage failed.
            av.FFmpegError: the film is damaged here.
        """
        try:
            tracks = [self.track] if spans is None else self.container.streams
            for packet in self.container.demux(*tracks):
                self.reads.check()
                if spans is not None and packet.pos is not None:
                    spans.append((packet.pos, packet.pos + packet.size))
                if packet.stream is self.track and packet.size and not packet.is_corrupt:
                    if self.is_avi:
                        packet.pts = packet.dts
                    yield cast("Packet[VideoStream]", packet)
        except av.FFmpegError:
            self.reads.check()
            raise
        self.reads.check()

    def is_shown(self, packet: "Packet[VideoStream]") -> bool:
        """Says whether a packet's frame is to be seen: edit lists hide some, and VP8 has some for reference."""
        if packet.is_discard:
            return False
        # RFC 6386, 9.1: bit 4 of a frame's first byte is show_frame.
        return not self.is_vp8 or bool(memoryview(packet)[0] & 0x10)


@contextlib.contextmanager
def open_film(uri: str, size: int) -> Iterator[OpenFilm]:
    """Opens a film of so many bytes; what only names other files (a playlist, a script) is none.

    Raises:
        DataError: it is no film that can be read, or there is no video in it.
        OSError: the storage failed.
    """
    if not size:
        raise DataError("unreadable film", "the file is empty")
    with storage.open_input(uri) as stream:
        reads = Reads(stream, size)
        try:
            container, is_cut = _container(reads)
        except av.FFmpegError as error:
            reads.check()
            raise DataError("unreadable film", error.strerror or str(error)) from error
        with container:
            yield OpenFilm(container, _track_of(container), reads, is_cut)


def _container(reads: Reads) -> tuple[InputContainer, bool]:
    """Opens a film, even one whose tables are cut, and says whether they are."""
    # libav would follow such names to any file of the machine.
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
    try:
        return av.open(reads, "r", container_options=options, metadata_errors="replace"), False
    except av.FFmpegError:
        reads.check()
        reads.seek(0)
    # libav looks through the tables of all fragments of an MP4 and gives up at a cut one, unless it may not look.
    options["fflags"] = "+ignidx"
    return av.open(reads, "r", container_options=options, metadata_errors="replace"), True


def _track_of(container: InputContainer) -> VideoStream:
    for track in container.streams.video:
        # A cover picture is a track of its own.
        if track.codec_context is not None and not track.disposition & Disposition.attached_pic:
            return track
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise DataError("no video", f"the film holds {kinds}, and no video that can be decoded")
