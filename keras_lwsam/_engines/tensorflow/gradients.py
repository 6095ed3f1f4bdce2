"""Gradients of TensorFlow: dense tensors, or the slices of an embedding."""

import tensorflow as tf
from keras import ops

from keras_lwsam._engines.engine import vector
from keras_lwsam._tensors import in_float32, squared_norm


def total(parts):
    """The sum of gradients, of which some or all may be `None`."""
    present = [part for part in parts if part is not None]
    if len(present) < 2:
        return present[0] if present else None
    return tf.add_n([dense(part) for part in present])


def dense(gradient):
    """A tensor, from what may be the slices of an embedding."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(
        gradient.values, gradient.indices, gradient.dense_shape[0]
    )


def times(gradient, factor):
    """A gradient times a scalar, in at least float32; slices stay slices."""
    return _map_values(
        lambda values: (
            in_float32(values) * ops.cast(factor, ops.dtype(in_float32(values)))
        ),
        gradient,
    )


def cast(dtype, gradient):
    """A gradient in another dtype; slices stay slices."""
    return _map_values(lambda values: ops.cast(values, dtype), gradient)


def _map_values(function, gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            function(gradient.values), gradient.indices, gradient.dense_shape
        )
    return function(gradient)


def squared_norms(gradients):
    """Vector of the squared L2 norm of each gradient, 0 where `None`."""
    return vector(lambda gradient: squared_norm(dense(gradient)), gradients)


def all_or_none(gradients, is_finite):
    """Gradients with a NaN among them if there was an overflow in the step.

    An optimizer that scales the loss asks only the gradients that it is given
    whether to skip an update. The overflow may have been on another replica, or
    in a pass of which those gradients do not tell.
    """
    poison = tf.where(is_finite, 0.0, float("nan"))
    first = next((i for i, g in enumerate(gradients) if g is not None), None)
    if first is None:
        return gradients
    gradients = list(gradients)
    gradients[first] = _map_values(
        lambda values: values + ops.cast(poison, values.dtype), gradients[first]
    )
    return gradients
