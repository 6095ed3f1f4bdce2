"""Which samples of a batch a method goes on with."""

import math

import keras
from keras import ops


def largest(scores, count):
    """Positions of the `count` largest scores, in the order of the batch.

    What is not a number is the largest: sorting knows no place for it, and a
    sample that has overflowed must not go unnoticed.
    """
    scores = ops.cast(scores, "float32")
    scores = ops.where(ops.isnan(scores), float("inf"), scores)
    order = ops.argsort(-scores)
    return ops.sort(order[:count])


def drawn(weights, count, seed):
    """Positions of `count` samples, drawn without replacement.

    Each draw takes one of those that are left with a probability proportional
    to its positive weight: those of the largest `log(u) / weight`.
    """
    uniform = keras.random.uniform(
        ops.shape(weights), dtype=ops.dtype(weights), seed=seed
    )
    logarithms = ops.log(ops.maximum(uniform, 1e-30))
    return largest(logarithms / weights, count)


def size(scores):
    """How many there are: an int where it is known, else a tensor."""
    known = scores.shape[0]
    return ops.shape(scores)[0] if known is None else known


def share_of(size, share):
    """`max(1, int(share * n))` of n samples."""
    if isinstance(size, int):
        return max(1, int(share * size))
    exact = share * ops.cast(size, "float64")
    return ops.maximum(1, ops.cast(ops.floor(exact), "int32"))


def count_of(step, size, name, share_or_count):
    """The same for a share in (0, 1], or a number of which there must be."""
    if isinstance(share_or_count, float):
        return share_of(size, share_or_count)
    step.require(
        share_or_count <= size,
        f"The batch is smaller than the subset that `{name}` asks for. Give a "
        "share of the batch, such as 0.5, or drop the last, smaller batch. "
        f"Received: {name}={share_or_count} and a batch of "
        f"{size if isinstance(size, int) else 'fewer'} samples",
    )
    return share_or_count


def is_whole(share_or_count):
    """Whether that is the whole batch, whatever its size."""
    return isinstance(share_or_count, float) and math.isclose(
        share_or_count, 1.0
    )
