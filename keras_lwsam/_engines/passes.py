"""One pass through the network: how it is made, and what comes of it."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_lwsam._engines.gradients import dense


class Evaluation(NamedTuple):
    """One forward and backward pass.

    Attributes:
        loss: Scalar, in the units of the logs.
        gradients: List with an entry a weight; `None` where the weight was
            not asked for or has no influence on the loss.
        predictions: What the network returned.
        assignments: `(variable, value)` pairs: what the pass would have
            assigned (BatchNorm statistics, seeds, loss trackers).
        sample_losses: Vector of the losses of the samples, of which the loss
            without regularization is the mean; if it was asked for.
        sample_slopes: Vector of the norms of their gradients with respect to
            the predictions; likewise.
        batch: The samples that the predictions are of; `None`: the batch of
            the step.
        weight: How much what this replica logs of it counts, next to the
            others.
    """

    loss: Any
    gradients: list
    predictions: Any = None
    assignments: list = ()
    sample_losses: Any = None
    sample_slopes: Any = None
    batch: Any = None
    weight: float = 1.0


class Options(NamedTuple):
    """How a pass is made: the arguments of `Step.gradients` by name.

    `share` is the part that this replica has in samples that all replicas
    together evaluate; `None`: the same as the others.
    """

    loss: Any = None
    training: bool = True
    when: Any = None
    dense: bool = False
    sample_losses: bool = False
    regularized: bool = True
    local: bool = False
    share: Any = None


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


class Pass(keras.StatelessScope):
    """Variables read as given values; what is assigned is only noted.

    A weight that the network itself assigns while it is called (spectral
    normalisation does) continues as a new leaf, as it does in `fit`: its
    gradient is the sum over its leaves, and none flows through the assignment.

    Attributes:
        weights: List of the network's weights.
        assignments: Dict from the `id` of a variable to it and what it would
            have been assigned.
        leaves: Dict from the index of a weight to the tensors it stood for.
        listeners: List of what is told of the variables that are read, by
            `read(variable, value)`, and of those that are assigned, by
            `updated(variable, value)`.
    """

    def __init__(self, weights, at, rest, tape, wrt):
        super().__init__(
            [*zip(weights, at, strict=True), *rest], collect_losses=True
        )
        # The scope would round float32 values to the dtype of the weight.
        self.state_mapping.update(
            (id(v), value) for v, value in zip(weights, at, strict=True)
        )
        self.weights = weights
        self.listeners = []
        self.assignments = {}
        self.leaves = {index: [at[index]] for index in wrt}
        self._tape = tape
        self._index = {id(weights[index]): index for index in wrt}
        tape.watch([at[index] for index in wrt])

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        for listener in self.listeners:
            listener.read(variable, value)
        return value

    def add_update(self, update):
        variable, value = update
        self.note(variable, tf.stop_gradient(value))

    def note(self, variable, value):
        """Lets a variable stand for another value, which is a constant."""
        index = self._index.get(id(variable))
        if index is not None:
            self._tape.watch(value)
            self.leaves[index].append(value)
        self.assignments[id(variable)] = (variable, value)
        for listener in self.listeners:
            listener.updated(variable, value)
        super().add_update((variable, value))


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
