"""Reads MANO's pickle without running anything in it: no chumpy, no scipy, no numpy code is reached.

Every name the file may use stands for an inert record of our own that only keeps what the file says; arrays
are then made from the raw bytes in the records. The file is a Python 2 pickle of protocol 2 whose only
globals are numpy.core.multiarray._reconstruct, numpy.ndarray, numpy.dtype, __builtin__.set, chumpy.ch.Ch,
chumpy.reordering.Select and scipy.sparse.csc.csc_matrix (MANO v1.2). The spellings that Python 3, numpy 2
and newer scipy write when somebody saves the same content again are understood too.
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Iterable
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError

# A MANO file needs a few hundred opcodes. The bound keeps records and memo small, and nested tuples so
# shallow that hashing one cannot overrun the C stack (it does at 200 000).
_MAX_OPCODES = 20_000
_MAX_VALUES = 10_000_000  # of one array; MANO's largest has 315 090

# fmt: off
_OPCODES = frozenset({
    "PROTO", "FRAME", "MARK", "STOP",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
})
# fmt: on

# What loading can raise on a file that is not well formed.
_MALFORMED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class _Record:
    """What the file calls with, and what it then sets; nothing happens in either."""

    __slots__ = ("args", "state")

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        record = object.__new__(cls)
        record.args = args
        record.state = None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    """`_reconstruct(ndarray, (0,), "b")`, then the state (version, shape, dtype, Fortran order, bytes)."""


class _Buffer(_Record):
    """`_frombuffer(bytes, dtype, shape, order)`, as protocol 5 has it."""


class _DType(_Record):
    """`dtype("f8", align, copy)`, then the state (version, byte order, ...)."""


class _Bytes(_Record):
    """`encode(text, "latin1")`, the way in which Python 3 writes bytes into protocol 2."""


class _Chumpy(_Record):
    """A chumpy `Ch`, whose value is `x`, or a `Select`: the values `idxs` of `a`, in `preferred_shape`."""


class _Sparse(_Record):
    """A scipy matrix of compressed columns."""


class _Ignored(_Record):
    """Something that no value is made from."""


_NAMES: dict[tuple[str, str], type[_Record]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("numpy", "ndarray"): _Ignored,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "set"): _Ignored,
    ("builtins", "set"): _Ignored,
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _Chumpy,
    ("scipy.sparse.csc", "csc_matrix"): _Sparse,
    ("scipy.sparse._csc", "csc_matrix"): _Sparse,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> type[_Record]:
        if (module, name) not in _NAMES:
            _refuse(f"it asks for {f'{module}.{name}'[:80]!r}, which MANO's own file never does")
        return _NAMES[module, name]


def read_mano_pickle(data: bytes, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return those arrays of a MANO pickle that it has of the given keys; nothing in the file is executed.

    Raises ModelError for anything that a MANO file does not hold, naming it.
    """
    _check_opcodes(data)
    try:
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except ModelError:
        raise
    except _MALFORMED as error:
        _refuse(f"it does not load ({error})", cause=error)
    if not isinstance(content, dict):
        _refuse(f"it holds a {type(content).__name__.lstrip('_')}, not a dictionary of arrays")
    return {key: _value(key, content[key]) for key in keys if key in content}


def _check_opcodes(data: bytes) -> None:
    """Walk through the file as data first: is it whole, and are its opcodes and its memo those of MANO?"""
    try:
        with warnings.catch_warnings():
            # pickletools reads backslashes in a name as escapes, and Python warns of odd ones.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                _check_opcode(opcode.name, argument, count, len(data))
    except ModelError:
        raise
    except _MALFORMED as error:
        _refuse(f"it is not a whole pickle ({error})", cause=error)


def _check_opcode(name: str, argument: Any, count: int, file_size: int) -> None:
    if name not in _OPCODES:
        _refuse(f"it uses the opcode {name}, which MANO's own file never does")
    if count > _MAX_OPCODES:
        _refuse(f"it has more than {_MAX_OPCODES} opcodes, and MANO's own file has a few hundred")
    # Both of these numbers make the loader allocate before it reads on.
    if name == "LONG_BINPUT" and argument > _MAX_OPCODES:
        _refuse(f"it stores to memo {argument}, and MANO's own file has a few hundred")
    if name == "FRAME" and argument > file_size:
        _refuse(f"it announces a frame of {argument} bytes, and the file has {file_size}")


def _value(key: str, stored: Any) -> NDArray[Any]:
    """The array that a top-level entry of the file stands for."""
    try:
        match stored:
            case _Array() | _Buffer():
                return _dense(stored)
            case _Chumpy(state={"a": _Chumpy(state={"x": source}), "idxs": idxs, "preferred_shape": shape}):
                return _selected(_dense(source), _dense(idxs).ravel(), shape)
            case _Chumpy(state={"x": source}):
                return _dense(source)
            case _Sparse(state={"data": values, "indices": rows, "indptr": starts, "_shape": shape}):
                return _from_columns(_dense(values), _dense(rows), _dense(starts), shape)
    except _ArrayError as error:
        _refuse(f"{key} {error}")
    _refuse(f"{key} is no array, chumpy value or sparse matrix as MANO's own file has them")


class _ArrayError(Exception):
    """What is wrong with an array; becomes a ModelError where the key is known."""


def _dense(stored: Any) -> NDArray[Any]:
    match stored:
        case _Array(state=(_, shape, _DType() as dtype, fortran, data)):
            order = "F" if fortran else "C"
        case _Buffer(args=(data, _DType() as dtype, shape, "C" | "F" as order)):
            pass
        case _:
            raise _ArrayError("is not an array with all of its parts")
    size = _size(shape)
    plain = _plain_dtype(dtype)
    if isinstance(data, _Bytes) and len(data.args) == 2 and data.args[1] in ("latin1", "latin-1"):
        data = data.args[0]
    if isinstance(data, str):
        try:
            data = data.encode("latin1")
        except UnicodeEncodeError:
            raise _ArrayError("has text in place of its bytes") from None
    if not isinstance(data, bytes | bytearray) or len(data) != size * plain.itemsize:
        raise _ArrayError(f"has other than the {size * plain.itemsize} bytes that its shape {shape} needs")
    return np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C")


def _plain_dtype(stored: _DType) -> np.dtype[Any]:
    """A dtype of plain numbers, by its code and byte order; objects, records and strings are not made."""
    match stored:
        case _DType(args=(str() as code, *_), state=(_, "<" | ">" | "|" | "=" as byte_order, *_)):
            if code in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
                return np.dtype(code).newbyteorder(byte_order)
            raise _ArrayError(f"has elements of type {code[:20]!r}, and MANO's are plain numbers")
    raise _ArrayError("has no element type")


def _size(shape: Any) -> int:
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= _MAX_VALUES for n in shape):
        raise _ArrayError("has a shape that is no tuple of sizes")
    size = math.prod(shape)
    if len(shape) > 3 or size > _MAX_VALUES:
        raise _ArrayError(f"has the shape {shape[:4]}, larger than anything in MANO")
    return size


def _selected(source: NDArray[Any], idxs: NDArray[Any], shape: Any) -> NDArray[Any]:
    """chumpy's `Select`: source.ravel()[idxs].reshape(shape)."""
    if _size(shape) != idxs.size:
        raise _ArrayError(f"selects {idxs.size} values for the shape {shape}")
    return source.ravel()[_indices(idxs, source.size)].reshape(shape)


def _from_columns(
    values: NDArray[Any], rows: NDArray[Any], starts: NDArray[Any], shape: Any
) -> NDArray[np.float64]:
    """scipy's csc_matrix as a full array; entries named twice are summed, as scipy does."""
    if _size(shape) == 0 or len(shape) != 2 or starts.shape != (shape[1] + 1,) or rows.shape != values.shape:
        raise _ArrayError("is a sparse matrix whose parts do not fit each other")
    lengths = np.diff(_indices(starts, len(values) + 1))
    if starts[0] != 0 or starts[-1] != len(values) or lengths.min() < 0:
        raise _ArrayError("is a sparse matrix whose columns do not cover its values")
    full = np.zeros(shape)
    np.add.at(full, (_indices(rows, shape[0]), np.repeat(np.arange(shape[1]), lengths)), values)
    return full


def _indices(stored: NDArray[Any], bound: int) -> NDArray[np.int64]:
    """Index numbers as int64, all inside [0, bound)."""
    whole = stored.ndim == 1 and stored.dtype.kind in "iu"
    if not whole or (stored.size and not 0 <= stored.min() <= stored.max() < bound):
        raise _ArrayError(f"has indices outside 0 to {bound - 1}")
    return stored.astype(np.int64)


def _refuse(found: str, *, cause: BaseException | None = None) -> NoReturn:
    line = " ".join(found.split())[:300]
    raise ModelError(
        f"hand model: the pickle was refused, and nothing in it was run: {line}; "
        "fetch MANO_RIGHT.pkl from mano.is.tue.mpg.de again"
    ) from cause
