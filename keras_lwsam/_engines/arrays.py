"""Parts of a batch, where shapes are known: on JAX and PyTorch."""

import itertools

import numpy as np
from keras import ops, tree

from keras_lwsam._tensors import mean_of


def size(batch):
    """Number of samples."""
    first = next(part for part in tree.flatten(batch) if part is not None)
    return first.shape[0]


def take(batch, indices):
    """The samples at some positions."""
    return each(lambda part: ops.take(part, indices, axis=0), batch)


def weighted(batch, weights):
    """The batch with its sample weights multiplied by others."""
    x, y, sample_weight = batch
    if sample_weight is None:
        return x, y, weights
    return x, y, each(lambda own: _times(own, weights), sample_weight)


def has_positions(sample_weight):
    """Whether weights are those of positions of samples."""
    parts = (part for part in tree.flatten(sample_weight) if part is not None)
    return any(len(part.shape) > 1 for part in parts)


def split(batch, count):
    """`(part, share)` pairs of consecutive parts whose sizes differ by one.

    A batch of fewer samples gives as many parts.
    """
    total = size(batch)
    count = min(count, total)
    bounds = [i * total // count for i in range(count + 1)]
    return [
        (each(lambda part, a=a, b=b: part[a:b], batch), (b - a) / total)
        for a, b in itertools.pairwise(bounds)
    ]


def mean(evaluations, shares):
    """One evaluation of a whole batch, from those of its parts."""
    first = evaluations[0]
    predictions = tree.map_structure(
        lambda *parts: ops.concatenate(parts, axis=0),
        *(e.predictions for e in evaluations),
    )
    values = [[value for _, value in e.assignments] for e in evaluations]
    variables = [variable for variable, _ in first.assignments]
    return first._replace(
        loss=mean_of([e.loss for e in evaluations], shares),
        predictions=predictions,
        assignments=list(zip(variables, mean_of(values, shares), strict=True)),
    )


def to_arrays(batch) -> dict:
    """The tensors of a batch as arrays by name."""
    return {
        f"{i}_0": ops.convert_to_numpy(part)
        for i, part in enumerate(tree.flatten(batch))
        if part is not None
    }


def from_arrays(arrays, like, strategy):
    """The batch of `to_arrays`, in the structure of another batch."""
    parts = tree.flatten(like)
    expected = {f"{i}_0" for i, part in enumerate(parts) if part is not None}
    if set(arrays) != expected:
        raise ValueError(
            "Training goes on with batches of another structure, or on another "
            "number of replicas, than those it was saved with. Expected, as "
            "numbers of parts and replicas, what was saved: "
            f"{sorted(arrays)}. Received: {sorted(expected)}"
        )
    return tree.pack_sequence_as(
        like,
        [
            None if part is None else np.asarray(arrays[f"{i}_0"])
            for i, part in enumerate(parts)
        ],
    )


def described(function, batch):
    """What a function makes of a batch."""
    return function(batch)


def each(function, batch):
    """A function of each part of a batch that there is."""
    return tree.map_structure(
        lambda part: None if part is None else function(part), batch
    )


def _times(own, weights):
    own = ops.convert_to_tensor(own)
    weights = ops.convert_to_tensor(weights)
    if not _is_float(own):
        own = ops.cast(own, ops.dtype(weights))
    rank = max(len(own.shape), len(weights.shape))
    weights = ops.cast(weights, ops.dtype(own))
    return _widened(own, rank) * _widened(weights, rank)


def _is_float(tensor):
    return "float" in ops.dtype(tensor)


def _widened(tensor, rank):
    missing = [1] * (rank - len(tensor.shape))
    return ops.reshape(tensor, [*tensor.shape, *missing])
