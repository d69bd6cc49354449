"""Reads pickles of arrays without running anything in them: no code of numpy or of others is reached.

Every name that a file may use stands for an inert record of our own that only keeps what the file says; arrays
are then made from the raw bytes in the records. Which names and opcodes a kind of file may use is its `Dialect`.
"""

import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

_MAX_VALUES = 10_000_000  # of one array; MANO's largest has 315 090

# fmt: off
BINARY_OPCODES: Final = frozenset({
    "PROTO", "FRAME", "MARK", "STOP",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
})
# What protocol 0, which Python 2 writes unless told otherwise, has beside them.
TEXT_OPCODES: Final = frozenset({"INT", "LONG", "FLOAT", "STRING", "UNICODE", "LIST", "DICT", "GET", "PUT"})
# fmt: on

_OPCODE_OF: Final = {opcode.code: opcode for opcode in pickletools.opcodes}

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


class PickleRefused(ValueError):  # noqa: N818
    """A pickle that is not of its dialect, or not whole; the message says what was found in it."""


class ArrayError(ValueError):
    """What is wrong with a stored value; whoever knows its key says so."""


class Record:
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


class _Array(Record):
    """`_reconstruct(ndarray, (0,), "b")`, then the state (version, shape, dtype, Fortran order, bytes)."""


class _Buffer(Record):
    """`_frombuffer(bytes, dtype, shape, order)`, as protocol 5 has it."""


class _Scalar(Record):
    """`scalar(dtype, bytes)`, one number of an array."""


class _DType(Record):
    """`dtype("f8", align, copy)`, then the state (version, byte order, ...)."""


class _Bytes(Record):
    """`encode(text, "latin1")`, the way in which Python 3 writes bytes into protocol 2."""


class Ignored(Record):
    """Something that no value is made from."""


Names = Mapping[tuple[str, str], type[Record]]

ARRAY_NAMES: Final[Names] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy", "ndarray"): Ignored,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Bytes,
}


@dataclass(frozen=True)
class Dialect:
    """What a kind of file may hold.

    whose: "MANO's own file", for the messages. max_opcodes: the bound keeps records and memo small, and nested
    tuples so shallow that hashing one cannot overrun the C stack (it does at 200 000).
    """

    whose: str
    names: Names = field(default_factory=lambda: ARRAY_NAMES)
    opcodes: frozenset[str] = BINARY_OPCODES
    max_opcodes: int = 20_000


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, dialect: Dialect) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._dialect = dialect

    def find_class(self, module: str, name: str, /) -> type[Record]:
        found = self._dialect.names.get((module, name))
        if found is None:
            _refuse(f"it asks for {f'{module}.{name}'[:80]!r}, which {self._dialect.whose} never does")
        return found


def load(data: bytes, dialect: Dialect) -> dict[Any, Any]:
    """Return the dictionary of a pickle; arrays in it are records, of which `dense` and `plain` make values.

    Raises:
        PickleRefused: the file is not of the dialect, not whole, or holds no dictionary.
    """
    _check_opcodes(data, dialect)
    try:
        content = _Unpickler(data, dialect).load()
    except PickleRefused:
        raise
    except _MALFORMED as error:
        _refuse(f"it does not load ({error})", cause=error)
    if not isinstance(content, dict):
        _refuse(f"it holds a {type(content).__name__.lstrip('_')}, not a dictionary of arrays")
    return content


def _check_opcodes(data: bytes, dialect: Dialect) -> None:
    """Read the opcodes as text, before any of them is obeyed."""
    try:
        with warnings.catch_warnings():
            # pickletools reads backslashes in a name as escapes, and Python warns of odd ones.
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (name, argument) in enumerate(_opcodes(data)):
                _check_opcode(name, argument, count, len(data), dialect)
    except PickleRefused:
        raise
    except _MALFORMED as error:
        _refuse(f"it is not a whole pickle ({error})", cause=error)


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield opcodes and their arguments as pickletools does, which cannot read the bytes in Python 2's text."""
    stream = io.BytesIO(data)
    while code := stream.read(1):
        opcode = _OPCODE_OF.get(code.decode("latin1"))
        if opcode is None:
            raise ValueError(f"there is no opcode {code!r}")
        if opcode.name == "STRING":
            yield opcode.name, stream.readline()
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(stream)
        if opcode.name == "STOP":
            return
    raise ValueError("it ends before its end")


def _check_opcode(name: str, argument: Any, count: int, file_size: int, dialect: Dialect) -> None:
    most = dialect.max_opcodes
    if name not in dialect.opcodes:
        _refuse(f"it uses the opcode {name}, which {dialect.whose} never does")
    if count > most:
        _refuse(f"it has more than {most} opcodes, and {dialect.whose} has a few hundred")
    # All of these numbers make the loader allocate before it reads on.
    if name in ("LONG_BINPUT", "PUT") and argument > most:
        _refuse(f"it stores to memo {argument}, and {dialect.whose} has a few hundred")
    if name == "FRAME" and argument > file_size:
        _refuse(f"it announces a frame of {argument} bytes, and the file has {file_size}")


def plain(stored: Any, depth: int = 3) -> Any:
    """Return the value that a record stands for: an array, a number, text, None, or a short list of such.

    depth: how deep lists may lie in each other. With it, a list that holds itself many times stays small.

    Raises:
        ArrayError: it is something else.
    """
    match stored:
        case None | bool() | int() | float() | str():
            return stored
        case _Scalar(args=(_DType() as dtype, data)):
            return _from_bytes(data, _plain_dtype(dtype), (), "C").item()
        case list() | tuple() if len(stored) <= 100 and depth:
            return [plain(item, depth - 1) for item in stored]
    return dense(stored)


def dense(stored: Any) -> NDArray[Any]:
    """Return the array of plain numbers that a record stands for.

    Raises:
        ArrayError: it is no array, or one whose parts do not fit each other.
    """
    match stored:
        case _Array(state=(_, shape, _DType() as dtype, fortran, data)):
            order = "F" if fortran else "C"
        case _Buffer(args=(data, _DType() as dtype, shape, "C" | "F" as order)):
            pass
        case _:
            raise ArrayError("is not an array with all of its parts")
    return _from_bytes(data, _plain_dtype(dtype), shape, order)


def _from_bytes(data: Any, dtype: np.dtype[Any], shape: Any, order: str) -> NDArray[Any]:
    size = size_of(shape)
    if isinstance(data, _Bytes) and len(data.args) == 2 and data.args[1] in ("latin1", "latin-1"):
        data = data.args[0]
    if isinstance(data, str):
        try:
            data = data.encode("latin1")
        except UnicodeEncodeError:
            raise ArrayError("has text in place of its bytes") from None
    if not isinstance(data, bytes | bytearray) or len(data) != size * dtype.itemsize:
        raise ArrayError(f"has other than the {size * dtype.itemsize} bytes that its shape {shape} needs")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _plain_dtype(stored: _DType) -> np.dtype[Any]:
    """A dtype of plain numbers, by its code and byte order; objects, records and strings are not made."""
    match stored:
        case _DType(args=(str() as code, *_), state=(_, "<" | ">" | "|" | "=" as byte_order, *_)):
            if code in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
                return np.dtype(code).newbyteorder(byte_order)
            raise ArrayError(f"has elements of type {code[:20]!r}, where plain numbers belong")
    raise ArrayError("has no element type")


def size_of(shape: Any) -> int:
    """Return how many values a shape holds.

    Raises:
        ArrayError: it is no shape, or one of more dimensions or values than any file of ours has.
    """
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= _MAX_VALUES for n in shape):
        raise ArrayError("has a shape that is no tuple of sizes")
    size = math.prod(shape)
    if len(shape) > 3 or size > _MAX_VALUES:
        raise ArrayError(f"has the shape {shape[:4]}, larger than anything in such a file")
    return size


def _refuse(found: str, *, cause: BaseException | None = None) -> NoReturn:
    raise PickleRefused(" ".join(found.split())[:300]) from cause
