"""What a film holds, found without decoding it: its frames as they are shown, and where to start for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from typing import NamedTuple

import av

from pipeline.sources.matroska import lost_bytes, missing_tail
from pipeline.sources.video_reads import OpenFilm, Span


class Frame(NamedTuple):
    """A frame as the plan keeps it; times are in units of the stream's time base.

    frame_index: 0-based, in the order in which frames are shown. pts: when it is shown.
    start: the byte at which the key frame lies from which it decodes whole, and which is found by seeking to the
    time `seek`; both are None in a film whose frames can only be told by counting them from its beginning.
    """

    frame_index: int
    pts: int
    start: int | None = None
    seek: int | None = None

    def to_key(self) -> str:
        return " ".join(str(number) for number in self if number is not None)

    @classmethod
    def from_key(cls, key: str) -> "Frame":
        return cls(*map(int, key.split()))


@dataclass(frozen=True)
class Index:
    """The frames of a film, the seconds at which each is shown, and why there are not more, if so."""

    frames: Sequence[Frame]
    timestamps: Sequence[float]
    damage: str | None = None


class _Place(NamedTuple):
    position: int | None
    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool


def index_film(film: OpenFilm) -> Index:
    """Goes through a film's packets, once and in order, and puts its frames into the order in which they are shown.

    The tables of an MP4 say all that is needed, and its pictures are not fetched; other films are read whole.

    Raises:
        OSError: the storage failed.
    """
    table = film.track.index_entries
    key_times = None
    # An MP4 in fragments has its tables between its pictures.
    if film.is_mp4 and 0 < len(table) == film.track.frames and not film.is_vp8:
        film.reads.skim()
        key_times = {entry.timestamp for entry in table if entry.is_keyframe}
    places: list[_Place] = []
    # In a WebM with transparency, a second picture lies behind each packet.
    is_spanned = film.is_matroska and "alpha_mode" not in film.track.metadata
    spans: list[Span] | None = [] if is_spanned else None
    damage = None
    try:
        for packet in film.packets(spans):
            is_key = packet.is_keyframe if key_times is None else packet.dts in key_times
            places.append(_Place(packet.pos, packet.pts, packet.dts, is_key, film.is_shown(packet)))
    except av.FFmpegError as error:
        damage = f"unreadable behind frame {len(places)}: {error.strerror}"
    damage = damage or _lack(film, places) or missing_tail(film.reads)
    if damage is None and spans is not None:
        damage = lost_bytes(film.reads, spans)
    if damage is None and film.is_cut:
        damage = f"its tables end after {len(places)} frames"
    # In a damaged AVI the clock depends on where reading began.
    is_counted = film.is_avi and (film.track.codec_context.has_b_frames or damage is not None)
    if is_counted or not _are_distinct([place.pts for place in places if place.is_shown]):
        frames = _counted(places, film.time_base, film.track.average_rate or Fraction(25))
    else:
        frames = _placed(places, by_dts=film.is_mp4)
    return Index(frames, [float(frame.pts * film.time_base) for frame in frames], damage)


def _lack(film: OpenFilm, places: Sequence[_Place]) -> str | None:
    """Says how many of the frames that the film states are there, if some are not."""
    stated, found = film.track.frames, len(places)
    if film.is_mp4:
        # An edit list may leave frames out: the table is then shorter than the count in the header.
        stated = len(film.track.index_entries)
    if film.is_avi:
        # The clock of an AVI counts its frames, and goes on where one is left empty, to be shown as the one before.
        found = 1 + max((place.dts or 0 for place in places), default=-1)
    return f"{found} of {stated} frames are there" if found < stated else None


def _are_distinct(times: Sequence[int | None]) -> bool:
    return None not in times and len(set(times)) == len(times)


def _placed(places: Sequence[_Place], *, by_dts: bool) -> list[Frame]:
    """Returns the frames in order of their times.

    A frame starts from the last key frame before it that is also shown before it: one that is shown before
    its key frame (open groups of pictures) needs the key frame before that.
    """
    found = []
    keys = list(places[:1])
    for place in places:
        if place.is_key and place is not keys[0]:
            keys.append(place)
        if place.is_shown:
            assert place.pts is not None
            start = next((key for key in reversed(keys) if _not_after(key, place.pts)), keys[0])
            # MP4 is searched by decoding time, Matroska by presentation time.
            found.append((place.pts, start.position, start.dts if by_dts else start.pts))
    found.sort(key=itemgetter(0))
    return [Frame(number, *times) for number, times in enumerate(found)]


def _not_after(key: _Place, pts: int) -> bool:
    return key.pts is not None and key.pts <= pts


def _counted(places: Sequence[_Place], time_base: Fraction, rate: Fraction) -> list[Frame]:
    """Returns the frames with the times of the packets, in order: the n-th frame has the n-th of them."""
    times = [place.dts for place in places if place.is_shown]
    if None in times:
        times = [round(number / (rate * time_base)) for number in range(len(times))]
    return [
        Frame(number, pts) for number, pts in enumerate(sorted(time for time in times if time is not None))
    ]
