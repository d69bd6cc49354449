"""Looks at inputs before they are cut into units; what it finds stands in the plan for good."""

import errno
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import boxes, storage
from pipeline.errors import ConfigError, Interrupted, StorageError
from pipeline.sources import SOURCES
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent, Input

PROBES_AT_ONCE = 16
READ_BYTES = 8 << 20


def probe(inputs: Sequence[Input], *, sampling: Sampling, needs_boxes: bool) -> list[Extent]:
    """Returns what of each input is taken, in order.

    Raises:
        ConfigError: an input carries no boxes and needs them.
        Interrupted: storage gave out, so that nothing can be said of an input.
    """
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        extents = list(pool.map(_probe, inputs))
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
