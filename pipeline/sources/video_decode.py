"""From a film's packets to upright RGB pixels, from any key frame, and which of them can be trusted."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, dropwhile, islice
from operator import itemgetter
from typing import NamedTuple

import av
import numpy as np
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.sources.video_index import Frame
from pipeline.sources.video_reads import open_film
from pipeline.stages.decode import MAX_PIXELS

THREADS = 2
DEEPEST = 16  # frames that may be shown before one that is decoded before them: the most in H.264 and HEVC


@dataclass
class Picture:
    """A decoded frame, with the number of its packet since decoding began and the pts of that packet.

    is_damaged: it, or a frame that it is made from, is not what was encoded.
    """

    frame: VideoFrame
    number: int
    pts: int | None
    is_damaged: bool


class Film:
    """A film that is open for decoding, from any of its key frames."""

    def __init__(self, uri: str, size: int) -> None:
        self.uri = uri
        self.size = size
        self._open_files = ExitStack()

    def __enter__(self) -> "Film":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def _open(self) -> None:
        self._open_files.close()
        self._film = self._open_files.enter_context(open_film(self.uri, self.size))
        # Threads that take a frame each may hand it out before they know that it is damaged.
        self._film.track.thread_type = "SLICE"
        # For H.264, libav checks for damage with one thread only; most of its frames cannot be shared anyway.
        is_h264 = self._film.track.codec_context.name == "h264"
        self._film.track.codec_context.thread_count = 1 if is_h264 else THREADS
        self._is_at_beginning = True

    @property
    def time_base(self) -> Fraction:
        """The seconds in one unit of the film's clock."""
        return self._film.time_base

    def pictures_for(self, frame: Frame) -> Iterator[Picture]:
        """Yields pictures in the order in which they are shown, begun so early that the given frame is whole."""
        if frame.start is not None and frame.seek is not None:
            pictures = self._decoded(self._packets_from(frame.seek, frame.start))
            # What is shown before the key frame may need more than is decoded here.
            first = next((one for one in islice(pictures, DEEPEST + 1) if one.number == 0), None)
            # What some films call a key frame is none (gradual refresh): they decode from the beginning only.
            if first is not None and first.frame.pict_type == PictureType.I:
                yield first
                yield from pictures
                return
        if not self._is_at_beginning:
            self._open()
        yield from self._decoded(self._film.packets())

    def _packets_from(self, seek: int, start: int) -> "Iterator[Packet[VideoStream]]":
        """Yields the packets from the one at byte `start` on; nothing where the search leads past it."""
        self._is_at_beginning = False
        try:
            self._film.container.seek(seek, stream=self._film.track)
        except av.FFmpegError:
            return
        found = dropwhile(lambda packet: packet.pos != start, self._film.packets())
        lag = 0
        for number, packet in enumerate(found):
            if self._film.is_avi and packet.dts is not None:
                # The clock of an AVI follows its index, which may be wrong: it is set by what was planned.
                lag = seek - packet.dts if number == 0 else lag
                packet.pts = packet.dts + lag
            yield packet

    def _decoded(self, some: "Iterable[Packet[VideoStream]]") -> Iterator[Picture]:
        """Yields what the decoder makes of packets.

        Damage spoils what is decoded after it and shown before it: pictures are held back until every packet
        before theirs has been answered.
        """
        self._is_at_beginning = False
        held: deque[Picture] = deque()
        times: list[int | None] = []
        unanswered: set[int] = set()
        damage = _Damage()
        # In these, every packet is a picture.
        is_strict = self._film.track.codec_context.name in ("h264", "hevc") and not self._film.is_avi
        # None at the end makes the decoder give out what it holds back.
        for packet in chain(_until_broken(some), [None]):
            if packet is not None:
                if self._film.is_shown(packet):
                    unanswered.add(len(times))
                times.append(packet.pts)
                # A decoder hands the time through, whatever it is: the number says to which packet a frame belongs.
                packet.pts = len(times) - 1
            try:
                frames = self._film.track.codec_context.decode(packet)
            except av.FFmpegError:
                if times:
                    damage.add(len(times) - 1, times[-1])
                frames = []
            for frame in frames:
                number = frame.pts
                if number is None or not 0 <= number < len(times):
                    continue
                if frame.key_frame:
                    damage.keys.append(_Key(number, times[number]))
                if frame.is_corrupt:
                    damage.add(number, times[number])
                held.append(Picture(frame, number, times[number], is_damaged=False))
                unanswered.discard(number)
                for lost in [other for other in unanswered if other <= number - DEEPEST]:
                    unanswered.remove(lost)
                    if is_strict:
                        damage.add_lost(lost, times[lost])
                while held and held[0].number < min(unanswered, default=len(times)):
                    yield damage.judged(held.popleft())
        for lost in unanswered if is_strict else ():
            damage.add_lost(lost, times[lost])
        yield from map(damage.judged, held)


class _Key(NamedTuple):
    """A key frame: the number and pts of its packet."""

    number: int = -1
    pts: int | None = None

    def is_not_after(self, pts: int | None) -> bool:
        return pts is None or self.pts is None or self.pts <= pts


class _Damage:
    """Which packets are damaged, and which pictures are made from them.

    keys: the last key frames; what is decoded and shown behind one needs nothing that is decoded or shown before.
    """

    def __init__(self) -> None:
        self.keys: deque[_Key] = deque(maxlen=4 * DEEPEST)
        self._packets: list[tuple[int, int | None]] = []

    def add(self, number: int, pts: int | None) -> None:
        insort(self._packets, (number, pts), key=itemgetter(0))

    def add_lost(self, number: int, pts: int | None) -> None:
        """Adds a packet of which no picture came, unless none could: the decoder began behind what it needs."""
        if self._key_of(number, pts).number >= 0:
            self.add(number, pts)

    def judged(self, picture: Picture) -> Picture:
        """Returns the picture, which says from now on whether it can be trusted."""
        key = self._key_of(picture.number, picture.pts)
        since = self._packets[bisect_left(self._packets, key.number, key=itemgetter(0)) :]
        picture.is_damaged = any(number <= picture.number and key.is_not_after(pts) for number, pts in since)
        return picture

    def _key_of(self, number: int, pts: int | None) -> _Key:
        """Returns the last key frame that is decoded and shown no later, or one that is no frame."""
        known = (key for key in self.keys if key.number <= number and key.is_not_after(pts))
        return max(known, key=itemgetter(0), default=_Key())


def _until_broken(some: "Iterable[Packet[VideoStream]]") -> "Iterator[Packet[VideoStream]]":
    """Yields packets up to the first that the container cannot give; what lacks then shows as missing."""
    try:
        yield from some
    except av.FFmpegError:
        return


def upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Returns a frame's pixels, RGB, turned and mirrored as the film says it is to be shown.

    Raises:
        DataError: there are more than `MAX_PIXELS`.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise DataError("image too large", f"{frame.width}x{frame.height} pixels; at most {MAX_PIXELS}")
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if isinstance(matrix, SideData):
        # ISO 14496-12, 6.2.2: pixel (x, y) is shown at (a x + c y, b x + d y); the matrix is a b u, c d v, x y w.
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(int)
        right, down = a, d
        if abs(b) > abs(a):
            pixels, right, down = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    return np.ascontiguousarray(pixels, np.uint8)
