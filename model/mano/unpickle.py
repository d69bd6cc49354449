"""MANO's pickle, read without running anything in it: no chumpy, no scipy.

The file is a Python 2 pickle of protocol 2 whose only globals are numpy.core.multiarray._reconstruct,
numpy.ndarray, numpy.dtype, __builtin__.set, chumpy.ch.Ch, chumpy.reordering.Select and
scipy.sparse.csc.csc_matrix (MANO v1.2). The spellings that Python 3, numpy 2 and newer scipy write when somebody
saves the same content again are understood too.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.pickles import (
    ARRAY_NAMES,
    ArrayError,
    Dialect,
    Ignored,
    PickleRefused,
    Record,
    dense,
    load,
    size_of,
)


class _Chumpy(Record):
    """A chumpy `Ch`, whose value is `x`, or a `Select`: the values `idxs` of `a`, in `preferred_shape`."""


class _Sparse(Record):
    """A scipy matrix of compressed columns."""


_MANO = Dialect(
    whose="MANO's own file",
    names={
        **ARRAY_NAMES,
        ("__builtin__", "set"): Ignored,
        ("builtins", "set"): Ignored,
        ("chumpy.ch", "Ch"): _Chumpy,
        ("chumpy.reordering", "Select"): _Chumpy,
        ("scipy.sparse.csc", "csc_matrix"): _Sparse,
        ("scipy.sparse._csc", "csc_matrix"): _Sparse,
    },
)


def read_mano_pickle(data: bytes, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return those arrays of a MANO pickle that it has of the given keys; nothing in the file is executed.

    Raises ModelError for anything that a MANO file does not hold, naming it.
    """
    try:
        content = load(data, _MANO)
    except PickleRefused as refusal:
        _refuse(str(refusal), cause=refusal)
    return {key: _value(key, content[key]) for key in keys if key in content}


def _value(key: str, stored: Any) -> NDArray[Any]:
    """The array that a top-level entry of the file stands for."""
    try:
        match stored:
            case _Chumpy(state={"a": _Chumpy(state={"x": source}), "idxs": idxs, "preferred_shape": shape}):
                return _selected(dense(source), dense(idxs).ravel(), shape)
            case _Chumpy(state={"x": source}):
                return dense(source)
            case _Sparse(state={"data": values, "indices": rows, "indptr": starts, "_shape": shape}):
                return _from_columns(dense(values), dense(rows), dense(starts), shape)
            case Record() if not isinstance(stored, _Chumpy | _Sparse):
                return dense(stored)
    except ArrayError as error:
        _refuse(f"{key} {error}", cause=error)
    _refuse(f"{key} is no array, chumpy value or sparse matrix as MANO's own file has them")


def _selected(source: NDArray[Any], idxs: NDArray[Any], shape: Any) -> NDArray[Any]:
    """chumpy's `Select`: source.ravel()[idxs].reshape(shape)."""
    if size_of(shape) != idxs.size:
        raise ArrayError(f"selects {idxs.size} values for the shape {shape}")
    return source.ravel()[_indices(idxs, source.size)].reshape(shape)


def _from_columns(
    values: NDArray[Any], rows: NDArray[Any], starts: NDArray[Any], shape: Any
) -> NDArray[np.float64]:
    """scipy's csc_matrix as a full array; entries named twice are summed, as scipy does."""
    if (
        size_of(shape) == 0
        or len(shape) != 2
        or starts.shape != (shape[1] + 1,)
        or rows.shape != values.shape
    ):
        raise ArrayError("is a sparse matrix whose parts do not fit each other")
    lengths = np.diff(_indices(starts, len(values) + 1))
    if starts[0] != 0 or starts[-1] != len(values) or lengths.min() < 0:
        raise ArrayError("is a sparse matrix whose columns do not cover its values")
    full = np.zeros(shape)
    np.add.at(full, (_indices(rows, shape[0]), np.repeat(np.arange(shape[1]), lengths)), values)
    return full


def _indices(stored: NDArray[Any], bound: int) -> NDArray[np.int64]:
    """Index numbers as int64, all inside [0, bound)."""
    whole = stored.ndim == 1 and stored.dtype.kind in "iu"
    if not whole or (stored.size and not 0 <= stored.min() <= stored.max() < bound):
        raise ArrayError(f"has indices outside 0 to {bound - 1}")
    return stored.astype(np.int64)


def _refuse(found: str, *, cause: BaseException | None = None) -> NoReturn:
    raise ModelError(
        f"hand model: the pickle was refused, and nothing in it was run: {found[:300]}; "
        "fetch MANO_RIGHT.pkl from mano.is.tue.mpg.de again"
    ) from cause
