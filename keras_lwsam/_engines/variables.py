"""Assigning to variables, also on replicas."""

import tensorflow as tf

from keras_lwsam import _keras


def snapshot(variables):
    """The present values of Keras variables, as tensors."""
    return [tf.convert_to_tensor(v.value) for v in variables]


def after(tensor):
    """A context whose assignments wait for a tensor.

    Data end, or raise, inside a compiled step; what does not depend on a batch
    may happen nevertheless.
    """
    return tf.control_dependencies([tensor])


def write_all(pairs):
    """Assigns tensors to variables, on every replica its own."""

    def write(strategy, variables, tensors):
        for variable, tensor in zip(variables, tensors, strict=True):
            strategy.extended.update(
                variable, lambda v, x: v.assign(x), args=(tensor,), group=False
            )

    if pairs:
        variables, tensors = zip(*((v.value, x) for v, x in pairs), strict=True)
        tf.__internal__.distribute.interim.maybe_merge_call(
            write, tf.distribute.get_strategy(), list(variables), list(tensors)
        )


def inactive(optimizer, weights, active):
    """What may have to be given back: `(variable, value, is_active)`.

    Args:
        optimizer: A built Keras optimizer.
        weights: List of the network's weights.
        active: List with a boolean scalar a weight; `None`: all are active.
    """
    return [
        (v, tf.convert_to_tensor(v.value), is_active)
        for weight, is_active in zip(weights, active or (), strict=False)
        if tf.is_tensor(is_active)
        for v in (weight, *_keras.slots_of(optimizer, weight))
    ]


def give_back(held):
    """Gives the values back to the variables that were not active."""
    write_all(
        [
            (v, tf.where(is_active, tf.convert_to_tensor(v.value), old))
            for v, old, is_active in held
        ]
    )


def moved(weights, displacements, is_finite):
    """`(weight, value)` pairs: where the weights are after displacements.

    Args:
        weights: List of the network's weights.
        displacements: List of tensors; `None` leaves a weight alone.
        is_finite: Boolean scalar; unless it holds, they stay where they are.
    """
    pairs = []
    for variable, displacement in zip(weights, displacements, strict=True):
        if displacement is None:
            continue
        value = tf.convert_to_tensor(variable.value)
        new = value + tf.cast(displacement, value.dtype)
        if variable.constraint is not None:
            new = variable.constraint(new)
        pairs.append((variable, tf.where(is_finite, new, value)))
    return pairs
