"""Passes that a tape watches, that depend on a condition, and refusals."""

import tensorflow as tf

from keras_lwsam._engines.evaluation import Evaluation
from keras_lwsam._engines.scopes import Pass
from keras_lwsam._engines.tensorflow.gradients import dense


def watched_by(tape, weights, at, rest, wrt):
    """The `Pass` whose leaves a tape watches."""

    def watch(value, index):
        tape.watch(value)
        return value

    tape.watch([at[index] for index in wrt])
    return Pass(weights, at, rest, wrt, tf.stop_gradient, watch)


def conditionally(when, evaluate, at, wrt):
    """Loss and gradients of `evaluate()`, or zeros without calling it."""
    present, dtypes = list(wrt), ["float32"]

    def compute():
        evaluation = evaluate()
        present[:] = [i for i in wrt if evaluation.gradients[i] is not None]
        dtypes[:] = [evaluation.loss.dtype]
        return evaluation.loss, [
            dense(evaluation.gradients[i]) for i in present
        ]

    def skip():
        zeros = [tf.zeros_like(at[i]) for i in present]
        return tf.zeros((), dtypes[0]), zeros

    loss, computed = tf.cond(when, compute, skip)
    gradients = [None] * len(at)
    for i, gradient in zip(present, computed, strict=True):
        gradients[i] = gradient
    return Evaluation(loss=loss, gradients=gradients)


def require(condition, message):
    """Raises `ValueError`, or the graph's error when it runs."""
    if tf.is_tensor(condition):
        known = tf.get_static_value(condition)
        if known is None:
            tf.debugging.Assert(condition, [message])
            return
        condition = known
    if not condition:
        raise ValueError(message)
