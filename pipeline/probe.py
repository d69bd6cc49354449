"""Looks at inputs before they are cut into units; what it finds stands in the plan for good."""

import errno
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import boxes, storage
from pipeline.child import Child
from pipeline.errors import ConfigError, HandoccError, Interrupted, StorageError
from pipeline.sources import SOURCES
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent, Input

PROBES_AT_ONCE = 16
READ_BYTES = 8 << 20


def probe(
    inputs: Sequence[Input], *, sampling: Sampling, needs_boxes: bool, apart: bool = False
) -> list[Extent]:
    """Returns what of each input is taken, in order.

    apart: each is looked at in a process of its own, of which one that kills it is as damaged as can be.

    Raises:
        ConfigError: an input carries no boxes and needs them.
        Interrupted: storage gave out, so that nothing can be said of an input.
    """
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        extents = list(pool.map(_probe_apart if apart else _probe, inputs))
    for item, extent in zip(inputs, extents, strict=True):
        if needs_boxes and extent.keys and not extent.has_boxes and extent.damage is None:
            raise ConfigError(f"{item.uri}: carries no boxes; --boxes must be {boxes.CHOICES}")
    return [sampling.of(extent) for extent in extents]


def _probe(item: Input) -> Extent:
    """Probes an input; damage is believed of an object that storage gives out to its end, seen a second time."""
    try:
        extent = SOURCES[item.source].probe(item)
        if extent.damage is None:
            return extent
        _require_served(item.uri)
        return SOURCES[item.source].probe(item)
    except StorageError as error:
        raise Interrupted(str(error)) from error


def _probe_apart(item: Input) -> Extent:
    for again in (True, False):
        child = Child(functools.partial(_told, item))
        for message in child.messages():
            if isinstance(message, HandoccError):
                raise message
            assert isinstance(message, Extent)
            return message
        if not (child.blameless and again):
            break
    return Extent([], damage=f"the process that looked at it died of {child.died}")


def _told(item: Input) -> Iterator[Extent | HandoccError]:
    try:
        yield _probe(item)
    except HandoccError as error:
        yield error


def _require_served(uri: str) -> None:
    """Reads an object to its end, or to where it cannot be read itself.

    Raises:
        StorageError: its storage is at fault, not the object.
    """
    try:
        with storage.open_input(uri) as stream:
            while stream.read(READ_BYTES):
                pass
    except OSError as error:
        # One bad sector, or all of a disk: too little to write a whole object off for good.
        if error.errno == errno.EIO:
            raise StorageError(f"{uri}: storage does not answer as it should: {error}") from error
