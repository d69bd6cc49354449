"""Columns of numbers as arrays, and back: (nested) fixed-size lists of float32."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(table: pa.Table, name: str, *shape: int) -> NDArray[np.float64]:
    """Returns a column of (nested) fixed-size lists as an array (N, *shape)."""
    array = table.column(name).combine_chunks()
    while pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64).reshape(-1, *shape)


def fixed_lists(values: NDArray[Any], dtype: pa.DataType) -> pa.Array:
    """Returns [n, …] numbers as an Arrow array of (nested) fixed-size lists."""
    array = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    sizes = []
    while pa.types.is_fixed_size_list(dtype):
        sizes.append(dtype.list_size)
        dtype = dtype.value_type
    for size in reversed(sizes):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array
