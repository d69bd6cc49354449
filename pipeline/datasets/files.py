"""What all readers of benchmarks ask of a root folder, with one line for a person where it is not there."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline import storage
from pipeline.datasets.json_rows import JsonRows, index_rows
from pipeline.errors import ConfigError, DataError

_REQUESTS_AT_ONCE = 32


def read_required(root: str, name: str, title: str) -> bytes:
    """Returns a file that the benchmark cannot be read without.

    Raises:
        ConfigError: it is not there, or cannot be had.
    """
    try:
        return storage.read(storage.below(root, name))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"{root}: there is no {name}; ROOT must be the folder of {title} as downloaded"
        ) from error
    except OSError as error:
        raise ConfigError(f"{root}: {name} cannot be read ({error})") from error


def read_all_required(root: str, names: Iterable[str], title: str) -> Iterator[bytes]:
    """Yields many such files in their order, fetched at once."""
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        yield from pool.map(lambda name: read_required(root, name, title), names)


def folders_in(folder: str) -> list[str]:
    """Returns the names of the folders in a folder, sorted."""
    literal = re.sub(r"[*?\[]", r"[\g<0>]", storage.canonical(folder))
    found = storage.glob(storage.join(literal, "*"))
    return sorted(storage.key_below(folder, uri) for uri, info in found.items() if info is None)


def rows_of(root: str, name: str) -> JsonRows | None:
    """Returns the rows of a JSON file that is one long array; None where there is no such file.

    Raises:
        ConfigError: it is cut short, or no such array.
    """
    uri = storage.below(root, name)
    if storage.stat(uri) is None:
        return None
    rows = index_rows(uri).get("")
    if rows is None:
        raise ConfigError(f"{uri}: must be one JSON array, it is an object")
    return rows


def require_rows(root: str, name: str, title: str, count: int | None = None) -> JsonRows:
    """Returns such rows, as many as there must be.

    Raises:
        ConfigError: there is no such file, or it has another number of rows.
    """
    rows = rows_of(root, name)
    if rows is None:
        raise ConfigError(f"{root}: there is no {name}; ROOT must be the folder of {title} as downloaded")
    if count is not None and len(rows) != count:
        raise ConfigError(f"{root}: {name} has {len(rows)} rows, and {count} belong to this split")
    return rows


def array_of(value: Any, *shape: int, what: str) -> NDArray[np.float64]:
    """Returns numbers of a file as an array of a shape.

    Raises:
        DataError: they are missing, no finite numbers, or of another shape.
    """
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("damaged annotation", f"{what}: {error}") from error
    if array.size != int(np.prod(shape)):
        raise DataError("damaged annotation", f"{what}: shape {array.shape}, {shape} belongs there")
    if not np.isfinite(array).all():
        raise DataError("senseless annotation", f"{what}: a number that is not finite")
    return array.reshape(shape)


def entry(fields: Any, name: str, *shape: int) -> NDArray[np.float64]:
    """Returns a named field of an annotation as an array of a shape.

    Raises:
        DataError: as `array_of`, or there is no such field.
    """
    if not isinstance(fields, dict) or name not in fields:
        raise DataError("damaged annotation", f"{name} is missing")
    return array_of(fields[name], *shape, what=name)


def same_place(one: ArrayLike, other: ArrayLike, tolerance_m: float) -> bool:
    """Says whether two points are the same one, in metres."""
    return bool(np.linalg.norm(np.asarray(one) - np.asarray(other)) <= tolerance_m)
