"""What a kind of input must be able to do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import DataError
from pipeline.records import Sample, Unit
from pipeline.storage import FileInfo


@dataclass(frozen=True)
class Input:
    """One input of a request: its canonical URI and the objects it consists of.

    A folder of images has its files here; every other input is one object. `name` is its path below the root that
    was given, by which boxes tables know a film.
    """

    uri: str
    source: str
    files: tuple[FileInfo, ...]
    name: str = ""

    @property
    def version(self) -> str:
        """What changes when the one object's content does."""
        return f"{self.files[0].size}-{self.files[0].version}"


@dataclass(frozen=True)
class Extent:
    """A run of an input's samples, before it is cut into units: their keys, in order, and where they lie.

    offsets: for sources that seek, len(keys) + 1 byte offsets inside the input; empty otherwise.
    damage: why the input could not be read to its end, if so.
    timestamps: for films, the presentation time of each sample in seconds.
    seams: numbers of samples before which a cut costs nothing, ascending: a film's key frames, a table's row groups.
    """

    keys: Sequence[str]
    offsets: Sequence[int] = ()
    damage: str | None = None
    has_boxes: bool = False
    timestamps: Sequence[float] = ()
    seams: Sequence[int] = ()


def _named_by_key(_unit: Unit, key: str) -> Sample:
    return Sample(key)


@dataclass(frozen=True)
class Source:
    """A kind of input: which endings it has, how it is probed, and how a unit of it is read.

    probe: returns the samples an input holds, reading as little as possible.
    read: yields exactly one sample per key, in order; what cannot be read is a sample with an error.
    one_object: an input is one object, which is planned anew as a whole when it changes.
    unread: returns a sample of which nothing is known but what its key in the plan says.
    """

    name: str
    endings: frozenset[str]
    probe: Callable[[Input], Extent]
    read: Callable[[Unit, Sequence[str]], Iterator[Sample]]
    one_object: bool = True
    unread: Callable[[Unit, str], Sample] = _named_by_key


def require_unchanged(unit: Unit) -> None:
    """Holds a unit's one object against the plan; after it was opened or read, so that nothing comes between.

    Raises:
        DataError: it is gone, or is not the one that was planned: its samples may be others by now.
    """
    now = storage.stat(unit.input)
    if now is None:
        raise DataError("missing file", "it was there when the job was planned")
    if f"{now.size}-{now.version}" != unit.version:
        raise DataError("changed input", "it changed since it was planned; the same command plans it anew")


def unrepeated(keys: Sequence[str]) -> list[str]:
    """Returns the keys with every repeated one told apart: the second `a` becomes `a~2`."""
    taken = set(keys)
    seen: dict[str, int] = {}
    result = []
    for key in keys:
        count = seen.get(key, 0) + 1
        name = key
        if count > 1:
            name = f"{key}~{count}"
            while name in taken:
                count += 1
                name = f"{key}~{count}"
            taken.add(name)
        seen[key] = count
        result.append(name)
    return result
