"""Films; a sample is a frame, whose key is the film's path below the given root.

A frame's `frame_index` counts all frames of the film in the order in which they are shown, from 0. Its `timestamp`
is in seconds on the film's own clock, on which the first frame need not be at 0. Both come from the packets and
stand in the plan, so that they do not depend on where decoding begins.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pipeline.errors import DataError
from pipeline.records import Sample, Unit
from pipeline.sources.source import Extent, Input, Source, require_unchanged
from pipeline.sources.video_decode import Film, Picture, upright
from pipeline.sources.video_index import Frame, index_film
from pipeline.sources.video_reads import open_film


def probe(film: Input) -> Extent:
    """Finds a film's frames without decoding any."""
    try:
        with open_film(film.uri, film.files[0].size) as opened:
            index = index_film(opened)
    except DataError as error:
        return Extent([], damage=str(error))
    except OSError as error:
        return Extent([], damage=f"cannot be read: {error}")
    starts = [frame.start for frame in index.frames]
    return Extent(
        keys=[frame.to_key() for frame in index.frames],
        damage=index.damage or (None if index.frames else "the film holds no frames"),
        timestamps=index.timestamps,
        seams=[number for number, (one, other) in enumerate(pairwise(starts), 1) if one != other],
    )


def read(unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    """Decodes a unit's frames, each run of them from the key frame before it."""
    left = deque(Frame.from_key(key) for key in keys)
    problem: DataError | None = None
    try:
        with Film(unit.input, unit.size) as film:
            require_unchanged(unit)
            for run in runs(tuple(left)):
                for sample in _read_run(film, run, unit.name):
                    left.popleft()
                    yield sample
    except (DataError, OSError) as error:
        problem = _reason(unit, error)
    for frame in left:
        yield Sample(unit.name, frame_index=frame.frame_index, error=problem)


def _unread(unit: Unit, key: str) -> Sample:
    return Sample(unit.name, frame_index=Frame.from_key(key).frame_index)


def _reason(unit: Unit, error: DataError | OSError) -> DataError:
    """Returns why a unit's film cannot be read: as a rule, because it is not the one that was planned."""
    try:
        require_unchanged(unit)
    except DataError as other:
        return other
    return error if isinstance(error, DataError) else DataError("unreadable film", str(error))


def runs(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Yields the frames in runs that are decoded without a jump; where frames are left out, one may pay."""
    run: list[Frame] = []
    for frame in frames:
        if run and frame.start != run[-1].start and frame.frame_index != run[-1].frame_index + 1:
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


def _read_run(film: Film, run: Sequence[Frame], name: str) -> Iterator[Sample]:
    """Yields a sample for each frame of a run, in order."""
    is_counted = run[0].start is None
    left = deque(run)
    for number, picture in enumerate(film.pictures_for(run[0])):
        place = number if is_counted else picture.pts
        while left and place is not None:
            wanted = left[0].frame_index if is_counted else left[0].pts
            if wanted > place:
                break
            yield _sample(film, name, left.popleft(), picture if wanted == place else None)
        if not left:
            return
    for frame in left:
        yield _sample(film, name, frame, None)


def _sample(film: Film, name: str, frame: Frame, picture: Picture | None) -> Sample:
    """Returns the sample of a frame, with its pixels or with the reason why there are none."""
    timestamp = float(frame.pts * film.time_base)
    try:
        if picture is None:
            raise DataError("missing frame", "the decoder gives no picture for it")
        if picture.is_damaged:
            raise DataError("damaged frame", "it, or a frame that it is made from, is damaged")
        pixels = upright(picture.frame)
    except DataError as error:
        return Sample(name, frame_index=frame.frame_index, timestamp=timestamp, error=error)
    return Sample(name, pixels, frame_index=frame.frame_index, timestamp=timestamp)


ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm"})
SOURCE = Source("video", ENDINGS, probe, read, unread=_unread)
