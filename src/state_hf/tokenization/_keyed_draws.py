"""Random numbers that are functions of a 64-bit key and a counter: what a cell draws does not depend on other cells."""

import numpy as np

from state_hf.compiled import kernel

# Numba turns `uint64 + int64` into a float: every constant that meets a key has to be a uint64 itself.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
U32 = np.uint64(32)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U27, _U30, _U31 = (np.uint64(bits) for bits in (27, 30, 31))


@kernel()
def mix(value):
    """Splitmix64's output function (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> _U30)) * _MIX_1
    value = (value ^ (value >> _U27)) * _MIX_2
    return value ^ (value >> _U31)
