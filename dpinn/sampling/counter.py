"""Random numbers as a pure function of a key and a counter.

SplitMix64 (Steele, Lea and Flood 2014) in integer arithmetic, so that every device, slice and
number of ranks gives the same bits.
"""

from __future__ import annotations

import hashlib

from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

BITS = 53
"""Bits of a random number: as many as a float64's significand holds."""


def stream_key(*parts: int | str) -> int:
    """A 64-bit key, signed as torch's int64, from anything that names a stream."""
    text = "\0".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def random_bits(key: int, index: Tensor) -> Tensor:
    """53 random bits for each counter.

    Args:
        key: from `stream_key`.
        index: int64 counters of any shape.

    Returns:
        int64 in [0, 2^53), of the shape of `index`.
    """
    z = (index + 1) * _signed(_GOLDEN) + key
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 64 - BITS)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's shifts int64 arithmetically."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
