"""The bootstrap for streams: every sample draws by itself how often it counts in each replicate."""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

# P(count ≤ k) of the Poisson distribution with mean 1; beyond k = 17 lies less than 1e-16.
POISSON_CDF = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(18)])


def poisson_weights(units: Sequence[str], *, replicates: int) -> NDArray[np.float64]:
    """Returns how often each unit counts in each replicate, (N, replicates): Poisson of mean 1.

    Drawn from the unit's name alone, so that workers need not agree on anything and every run is the same;
    equal names (the frames of a sequence) count together. Chamandy et al. 2012, "Estimating uncertainty for
    massive data streams".
    """
    rows = {unit: row for row, unit in enumerate(dict.fromkeys(units))}
    digests = b"".join(
        blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest() for unit in rows
    )
    seed = np.frombuffer(digests, dtype="<u8").astype(np.uint64)[:, None]
    counter = np.arange(1, replicates + 1, dtype=np.uint64)
    uniform = (_mixed(seed + _GOLDEN * counter) >> np.uint64(11)) * 2.0**-53
    weights = np.searchsorted(POISSON_CDF, uniform, side="right").astype(np.float64)
    return weights[np.array([rows[unit] for unit in units], dtype=np.intp)]


# splitmix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
