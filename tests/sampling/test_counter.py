"""Random bits: SplitMix64, the same on every device and slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dpinn.sampling.counter import BITS, random_bits, stream_key

MASK = (1 << 64) - 1

GOLDEN_KEY = -8022338232199621227
GOLDEN_BITS = [4500395063581994, 7705999180493486, 5031445248246686]


def splitmix64(state: int) -> int:
    """The reference in C (Vigna, public domain), in Python's unbounded integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_oracle_gives_the_published_first_numbers():
    """Seed 1234567 of Rosetta Code's SplitMix64 task."""
    numbers = [splitmix64((1234567 + i * 0x9E3779B97F4A7C15) & MASK) for i in range(3)]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), stream_key(7, "residual")])
def test_bits_are_the_upper_53_of_splitmix64(key):
    index = torch.tensor([0, 1, 2, 1000, 2**31, 2**40 + 5])
    expected = [
        splitmix64((key + i * 0x9E3779B97F4A7C15) & MASK) >> (64 - BITS) for i in index.tolist()
    ]
    assert random_bits(key, index).tolist() == expected


def test_bits_are_the_ones_that_saved_runs_were_made_with():
    assert stream_key(0, 0, 0, "residual") == GOLDEN_KEY
    assert random_bits(GOLDEN_KEY, torch.arange(3)).tolist() == GOLDEN_BITS


def test_shape_and_range():
    bits = random_bits(3, torch.arange(600).reshape(2, 300))
    assert bits.shape == (2, 300)
    assert bits.dtype == torch.int64
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 2**53


def test_keys_of_different_streams_differ():
    parts = [(0, 1), (1, 0), (0, 1, 0), ("01",), (0, "1", ""), (-1, 0), (10,), (1, "0")]
    keys = {stream_key(*p) for p in parts}
    assert len(keys) == len(parts) - 1  # (1, 0) and (1, "0") are the same text
    assert all(-(2**63) <= k < 2**63 for k in keys)


@pytest.mark.parametrize("key", [0, stream_key(1, "a"), stream_key(2, "b")])
def test_numbers_are_uniform_and_uncorrelated(key):
    u = random_bits(key, torch.arange(100_000)).numpy() * 2.0**-BITS
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.histogram(u, 64, (0, 1))[0]).pvalue > 1e-3
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    ones = np.unpackbits((u * 2.0**32).astype(np.uint32).view(np.uint8)).mean()
    assert abs(ones - 0.5) < 1e-3


def test_neighbouring_streams_are_uncorrelated():
    index = torch.arange(100_000)
    a, b = (random_bits(stream_key(k), index).double().numpy() for k in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
