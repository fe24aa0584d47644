"""The order of the samples and their random keys, as pure functions of (seed, epoch, sample)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order [num_samples] in which an epoch (counted from 1) visits the samples."""
    key = sample_keys(seed, epoch, np.array([_ORDER_STREAM]))[0]
    return np.random.Generator(np.random.Philox(key=int(key))).permutation(num_samples)


_ORDER_STREAM = 2**32 - 1  # no sample has this index


def sample_keys(seed: int, epoch: int, rows_N: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Derive a 64-bit key for each sample of an epoch; it seeds augmentation and token masking.

    A bijection selected by the seed mixes epoch and index, so all keys of a run are different.

    Args:
        seed: the experiment's.
        epoch: counted from 1, below 2^32.
        rows_N: sample indices, below 2^32.
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    return _mix(start ^ (np.uint64(epoch << 32) | rows_N.astype(np.uint64)))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
