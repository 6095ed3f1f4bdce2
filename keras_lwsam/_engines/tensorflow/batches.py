"""Parts of a batch: `(x, y, sample_weight)`, any structure of tensors."""

import itertools

import numpy as np
import tensorflow as tf
from keras import tree

from keras_lwsam._engines.arrays import each, has_positions, mean

# The same on every backend.
__all__ = ["has_positions", "mean"]


def size(batch):
    """Number of samples: an int where it is known, else a tensor."""
    first = next(part for part in tree.flatten(batch) if part is not None)
    first = tf.convert_to_tensor(first)
    known = first.shape[0]
    return tf.shape(first)[0] if known is None else known


def take(batch, indices):
    """The samples at some positions."""
    return each(lambda part: tf.gather(part, indices), batch)


def weighted(batch, weights):
    """The batch with its sample weights multiplied by others."""
    x, y, sample_weight = batch
    if sample_weight is None:
        return x, y, weights
    return x, y, each(lambda own: _times(own, weights), sample_weight)


def described(function, batch):
    """What a function makes of a batch, or of a description of one."""
    found = []

    def describe(batch):
        found.append(each(tf.TensorSpec.from_tensor, function(batch)))

    tf.function(describe, autograph=False).get_concrete_function(batch)
    return found[0]


def split(batch, count):
    """`(part, share)` pairs of consecutive parts whose sizes differ by one.

    A batch of fewer samples gives as many parts. Where the size is not known,
    and on several replicas, a part may have to repeat a sample; its share is 0
    then.
    """
    total = size(batch)
    # Replicas, whose batches may differ in size, make as many parts each.
    is_alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    if isinstance(total, int) and (is_alone or count <= total):
        count = min(count, total)
        bounds = [i * total // count for i in range(count + 1)]
        return [
            (_slice(batch, a, b), (b - a) / total)
            for a, b in itertools.pairwise(bounds)
        ]
    bounds = [i * total // count for i in range(count + 1)]
    return [
        (
            _slice(batch, tf.minimum(a, total - 1), tf.maximum(b, a + 1)),
            tf.cast(b - a, "float32") / tf.cast(total, "float32"),
        )
        for a, b in itertools.pairwise(bounds)
    ]


def part(batch, count, position):
    """One of those `(part, share)`; of a small batch, one may have no share."""
    parts = split(batch, count)
    if position < len(parts):
        return parts[position]
    return parts[-1][0], 0.0


def are_dense(batch):
    """Whether replicas can hand each other all of its parts."""
    return all(
        part is None or isinstance(part, tf.Tensor | np.ndarray)
        for part in tree.flatten(batch)
    )


def to_arrays(batch) -> dict:
    """The tensors of a batch, of every replica, as arrays by name."""
    return {
        f"{i}_{replica}": np.asarray(tensor)
        for i, part in enumerate(tree.flatten(batch))
        if part is not None
        for replica, tensor in enumerate(_local(part))
    }


def from_arrays(arrays, like, strategy):
    """The batch of `to_arrays`, in the structure of another batch.

    Args:
        arrays: What `to_arrays` gave.
        like: The other batch.
        strategy: The `tf.distribute` strategy that it is distributed by.
    """

    def part(i, example):
        if example is None:
            return None
        if not isinstance(example, tf.distribute.DistributedValues):
            return tf.convert_to_tensor(arrays[f"{i}_0"])
        here = len(_local(example))

        def value(context):
            # Those of other workers are in files of theirs.
            place = context.replica_id_in_sync_group % here
            return tf.convert_to_tensor(arrays[f"{i}_{place}"])

        return strategy.experimental_distribute_values_from_function(value)

    expected = {
        f"{i}_{replica}"
        for i, example in enumerate(tree.flatten(like))
        if example is not None
        for replica in range(len(_local(example)))
    }
    if set(arrays) != expected:
        raise ValueError(
            "Training goes on with batches of another structure, or on another "
            "number of replicas, than those it was saved with. Expected, as "
            "numbers of parts and replicas, what was saved: "
            f"{sorted(arrays)}. Received: {sorted(expected)}"
        )
    return tree.pack_sequence_as(
        like,
        [part(i, example) for i, example in enumerate(tree.flatten(like))],
    )


def _local(part):
    if isinstance(part, tf.distribute.DistributedValues):
        return part.values
    return [part]


def _slice(batch, start, stop):
    return each(lambda part: part[start:stop], batch)


def _times(own, weights):
    own = tf.convert_to_tensor(own)
    if not own.dtype.is_floating:
        own = tf.cast(own, weights.dtype)
    rank = max(len(own.shape), len(weights.shape))
    return _widened(own, rank) * _widened(tf.cast(weights, own.dtype), rank)


def _widened(tensor, rank):
    missing = [1] * (rank - len(tensor.shape))
    return tf.reshape(tensor, tf.concat([tf.shape(tensor), missing], axis=0))
