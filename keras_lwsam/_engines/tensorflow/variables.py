"""Assigning to variables, also on replicas."""

import tensorflow as tf


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
