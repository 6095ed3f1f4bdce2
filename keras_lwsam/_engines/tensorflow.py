"""The TensorFlow engine: `tf.GradientTape` and `tf.distribute`."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_lwsam import _keras
from keras_lwsam._tensors import in_float32, squared_norm


class Evaluation(NamedTuple):
    """One forward and backward pass.

    Attributes:
        loss: Scalar, in the units of the logs.
        gradients: List with an entry a weight; `None` where the weight was
            not asked for or has no influence on the loss.
        predictions: What the network returned.
        assignments: `(variable, value)` pairs: what the pass would have
            assigned (BatchNorm statistics, seeds, loss trackers).
    """

    loss: Any
    gradients: list
    predictions: Any
    assignments: list


class TensorFlowEngine:
    """Evaluates and applies gradients of one step, from one snapshot.

    Args:
        network: The `keras.Model` in training.
        compute_loss: Function `(x, y, predictions, sample_weight)` to a
            scalar.
        optimizer: A built Keras optimizer.
        weights: List of the network's weights; every list of tensors that
            goes in or out has one entry for each of them.
        layer_of: List of the layers that own the weights.
        dense: Indices of the weights whose gradients must be dense tensors.
        synchronize: Whether gradients are those of the global batch, or each
            replica's own.
    """

    def __init__(
        self,
        network,
        compute_loss,
        optimizer,
        weights,
        layer_of,
        dense,
        synchronize,
    ):
        self._network = network
        self._compute_loss = compute_loss
        self._optimizer = optimizer
        self._weights = weights
        self._layer_of = layer_of
        self._dense = frozenset(dense)
        self._synchronize = synchronize
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # Both passes of a step read these tensors, never a variable: so what
        # they have in common is the same graph node, and is computed once.
        self.values = [tf.convert_to_tensor(v.value) for v in weights]
        known = {id(v) for v in weights}
        self._rest = [
            (v, tf.convert_to_tensor(v.value))
            for v in network.variables
            if id(v) not in known
        ]
        self._loss_scale = optimizer.scale_loss(1.0)
        # The optimizer's view of each gradient handed out, by identity.
        self._scaled = {}

    def gradients(self, batch, at, wrt):
        """Loss, gradients, predictions and assignments of one pass.

        Args:
            batch: `(x, y, sample_weight)`.
            at: List of tensors, the values that the weights take.
            wrt: Indices of the weights to differentiate with respect to.

        Returns:
            An `Evaluation`. No variable has changed.
        """
        x, y, sample_weight = batch
        promoted = self._promoted(at)
        at = [
            in_float32(value) if id(layer) in promoted else value
            for value, layer in zip(at, self._layer_of, strict=True)
        ]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            scope = _Pass(self._weights, at, self._rest, tape, wrt)
            with _keras.in_float32(promoted.values()), scope:
                predictions = _keras.call(self._network, x, training=True)
                loss = self._compute_loss(
                    x, y, predictions, sample_weight, training=True
                )
            scaled_loss = self._optimizer.scale_loss(loss)
        leaves = [scope.leaves[index] for index in wrt]
        scaled = [None] * len(at)
        for index, parts in zip(
            wrt, tape.gradient(scaled_loss, leaves), strict=True
        ):
            scaled[index] = _total(parts)
        return Evaluation(
            loss=loss * self._replicas if self._replicas > 1 else loss,
            gradients=self._unscale(scaled, wrt),
            predictions=predictions,
            assignments=list(scope.assignments.values()),
        )

    def squared_norms(self, gradients):
        """Vector of the squared L2 norm of each gradient, 0 where `None`."""
        return ops.stack(
            [
                ops.zeros((), "float32")
                if gradient is None
                else ops.cast(squared_norm(_dense(gradient)), "float32")
                for gradient in gradients
            ]
        )

    def assign(self, assignments):
        """Carries out `(variable, value)` pairs."""
        for variable, value in assignments:
            variable.assign(value)

    def apply(self, gradients, variables):
        """One update of the optimizer.

        Args:
            gradients: List with an entry a weight.
            variables: The trainable variables, in the optimizer's order.
        """
        position = {id(v): i for i, v in enumerate(self._weights)}
        self._optimizer.apply(
            [
                self._scale(gradients[position[id(v)]], v.dtype)
                for v in variables
            ],
            variables,
        )

    def displace(self, displacements):
        """Adds a tensor to each weight; `None` leaves it alone."""
        for variable, displacement in zip(
            self._weights, displacements, strict=True
        ):
            if displacement is not None:
                variable.assign_add(ops.cast(displacement, variable.dtype))

    def _promoted(self, at):
        """Layers of 16-bit weights that are given float32 values, by id."""
        return {
            id(layer): layer
            for layer, variable, value in zip(
                self._layer_of, self._weights, at, strict=True
            )
            if ops.dtype(value) != variable.dtype
        }

    def _unscale(self, scaled, wrt):
        """Gradients in the units of the loss, from those of the tape."""
        present = [i for i in wrt if scaled[i] is not None]
        gradients = list(scaled)
        for i in present:
            if i in self._dense:
                gradients[i] = in_float32(_dense(scaled[i]))
        factor = 1.0
        if self._replicas > 1 and self._synchronize and present:
            reduced = tf.distribute.get_replica_context().all_reduce(
                "SUM", [gradients[i] for i in present]
            )
            for i, gradient in zip(present, reduced, strict=True):
                gradients[i] = gradient
        elif self._replicas > 1:
            factor = float(self._replicas)
        if not _is_one(self._loss_scale):
            factor = factor / self._loss_scale
        for i in present:
            if not _is_one(factor):
                gradients[i] = _times(gradients[i], factor)
            self._scaled[id(gradients[i])] = (gradients[i], scaled[i])
        return gradients

    def _scale(self, gradient, dtype):
        """A gradient as the optimizer expects it: scaled, of one replica."""
        if gradient is None:
            return None
        if id(gradient) in self._scaled:
            # Handed back as it came: nothing is rounded twice.
            return _as(dtype, self._scaled[id(gradient)][1])
        factor = self._loss_scale
        if self._replicas > 1:
            factor = factor / self._replicas
        if not _is_one(factor):
            gradient = _times(gradient, factor)
        return _as(dtype, gradient)

    @staticmethod
    def is_tracing():
        """Whether Python runs to trace a graph, on the first replica."""
        if not tf.inside_function():
            return False
        context = tf.distribute.get_replica_context()
        return tf.get_static_value(context.replica_id_in_sync_group) in (
            0,
            None,
        )


class _Pass(keras.StatelessScope):
    """Variables read as given values; what is assigned is only noted.

    A weight that the network itself assigns while it is called (spectral
    normalisation does) continues as a new leaf, as it does in `fit`: its
    gradient is the sum over its leaves, and none flows through the assignment.
    """

    def __init__(self, weights, at, rest, tape, wrt):
        super().__init__(
            [*zip(weights, at, strict=True), *rest], collect_losses=True
        )
        # The scope would round float32 values to the dtype of the weight.
        self.state_mapping.update(
            (id(v), value) for v, value in zip(weights, at, strict=True)
        )
        self.assignments = {}
        self.leaves = {index: [at[index]] for index in wrt}
        self._tape = tape
        self._index = {id(weights[index]): index for index in wrt}
        tape.watch([at[index] for index in wrt])

    def add_update(self, update):
        variable, value = update
        value = tf.stop_gradient(value)
        index = self._index.get(id(variable))
        if index is not None:
            self._tape.watch(value)
            self.leaves[index].append(value)
        self.assignments[id(variable)] = (variable, value)
        super().add_update((variable, value))


def _total(parts):
    present = [part for part in parts if part is not None]
    if len(present) < 2:
        return present[0] if present else None
    return tf.add_n([_dense(part) for part in present])


def _dense(gradient):
    """A tensor, from what may be the slices of an embedding."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(
        gradient.values, gradient.indices, gradient.dense_shape[0]
    )


def _times(gradient, factor):
    """A gradient times a scalar, in at least float32; slices stay slices."""
    return _map_values(
        lambda values: (
            in_float32(values) * ops.cast(factor, ops.dtype(in_float32(values)))
        ),
        gradient,
    )


def _as(dtype, gradient):
    """A gradient in another dtype; slices stay slices."""
    return _map_values(lambda values: ops.cast(values, dtype), gradient)


def _map_values(function, gradient):
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            function(gradient.values), gradient.indices, gradient.dense_shape
        )
    return function(gradient)


def _is_one(factor):
    return isinstance(factor, float) and factor == 1.0
