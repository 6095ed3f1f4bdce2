"""The TensorFlow engine: `tf.GradientTape` and `tf.distribute`."""

import contextlib

import tensorflow as tf
from keras import ops, tree

from keras_lwsam import _keras
from keras_lwsam._engines import batches, functions, halves, replicas
from keras_lwsam._engines.evaluations import Evaluations
from keras_lwsam._engines.gradients import (
    all_or_none,
    cast,
    dense,
    is_one,
    squared_norms,
    sums,
    times,
    total,
)
from keras_lwsam._engines.loops import Loops
from keras_lwsam._engines.passes import (
    Evaluation,
    Options,
    Pass,
    conditionally,
    require,
)
from keras_lwsam._engines.variables import (
    after,
    give_back,
    inactive,
    moved,
    snapshot,
    write_all,
)
from keras_lwsam._tensors import in_float32


class TensorFlowEngine:
    """Evaluates and applies gradients of one step, from one snapshot.

    Args:
        network: The `keras.Model` in training.
        compute_loss: Function `(x, y, predictions, sample_weight, training)`
            to a scalar.
        per_sample: Function of whether weights are those of positions of
            samples, to a context manager in which `compute_loss` must have
            values for each sample.
        optimizer: A built Keras optimizer.
        weights: List of the network's weights; every list of tensors that
            goes in or out has one entry for each of them.
        layer_of: List of the layers that own the weights.
        dense: Indices of the weights whose gradients must be dense tensors.
        synchronize: Whether gradients are those of the global batch, or each
            replica's own.
    """

    batches = batches
    evaluations = Evaluations
    replicas = replicas

    def __init__(
        self,
        network,
        compute_loss,
        per_sample,
        optimizer,
        weights,
        layer_of,
        dense,
        synchronize,
    ):
        self._network = network
        self._compute_loss = compute_loss
        self._per_sample = per_sample
        self._optimizer = optimizer
        self._weights = weights
        self._layer_of = layer_of
        self._dense = frozenset(dense)
        self._synchronize = synchronize
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_scale = optimizer.scale_loss(1.0)
        # Whether the gradients to apply are the same on all replicas.
        self._agrees = False
        self.look()

    def look(self):
        """Takes the snapshot: what the passes that follow start from."""
        # All passes of a step read these tensors, never a variable: so what
        # they have in common is the same graph node, and is computed once.
        self.values = snapshot(self._weights)
        known = {id(v) for v in self._weights}
        self._rest = [
            (v, tf.convert_to_tensor(v.value))
            for v in self._network.variables
            if id(v) not in known
        ]
        self._loops = Loops(self._network)
        # The optimizer's view of each gradient handed out, by identity.
        self._scaled = {}

    def gradients(self, batch, at, wrt, **options):
        """Loss, gradients, predictions and assignments of one pass.

        Args:
            batch: `(x, y, sample_weight)`.
            at: List of tensors, the values that the weights take.
            wrt: Indices of the weights to differentiate with respect to.
            **options: As of `Step.gradients`.

        Returns:
            An `Evaluation`. No variable has changed.
        """
        options = Options(**options)
        promoted = self._promoted(at)
        at = [
            in_float32(value) if id(layer) in promoted else value
            for value, layer in zip(at, self._layer_of, strict=True)
        ]

        def evaluate():
            with _keras.in_float32(promoted.values()):
                return self._pass(batch, at, wrt, options)

        if options.when is None:
            evaluation = evaluate()
        else:
            evaluation = conditionally(options.when, evaluate, at, wrt)
        return evaluation._replace(
            gradients=self._unscale(evaluation.gradients, wrt, options)
        )

    def side_by_side(self, passes, wrt):
        """Evaluations of two passes that do not wait for each other.

        Each on half of the replicas, if that can be; the gradients are then
        those of the global batch.

        Args:
            passes: Two `(batch, at)` pairs.
            wrt: As of `gradients`.
        """
        self._agrees = (
            self._replicas % 2 == 0
            and all(batches.are_dense(batch) for batch, _ in passes)
            and _keras.has_metrics_of_keras(self._network)
        )

        def gradients(batch, at):
            return self.gradients(
                batch, at, wrt, dense=True, local=self._agrees
            )

        if self._agrees:
            return halves.side_by_side(gradients, passes)
        return [gradients(batch, at) for batch, at in passes]

    def pools(self, batch):
        """Whether samples are chosen among those of all replicas."""
        return (
            self._synchronize
            and self._replicas > 1
            and batches.are_dense(batch)
        )

    def _pass(self, batch, at, wrt, options):
        """An `Evaluation` whose gradients are those of the scaled loss."""
        x, y, sample_weight = batch
        guard = contextlib.nullcontext()
        if options.sample_losses:
            ones = tf.ones((batches.size(batch),))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if options.sample_losses:
                tape.watch(ones)
                x, y, sample_weight = batches.weighted(batch, ones)
                guard = self._per_sample(batches.has_positions(sample_weight))
            scope = Pass(self._weights, at, self._rest, tape, wrt)
            with scope, self._loops.shared(scope, options.training):
                predictions = _keras.call(self._network, x, options.training)
                # The loss may look through a last softmax to its logits.
                outputs = [
                    getattr(output, "_keras_logits", output)
                    for output in tree.flatten(predictions)
                ]
                if options.sample_losses:
                    tape.watch(outputs)
                with guard:
                    loss = self._loss(x, y, predictions, sample_weight, options)
            if options.share is not None:
                weight = options.share * self._replicas
                loss = loss * tf.cast(weight, loss.dtype)
            scaled_loss = self._optimizer.scale_loss(loss)
        leaves = [scope.leaves[index] for index in wrt]
        sources = [leaves]
        if options.sample_losses:
            sources += [ones, outputs]
        of_leaves, *of_samples = tape.gradient(scaled_loss, sources)
        scaled = [None] * len(at)
        for index, parts in zip(wrt, of_leaves, strict=True):
            scaled[index] = total(parts)
        evaluation = Evaluation(
            loss=loss * self._replicas if self._replicas > 1 else loss,
            gradients=scaled,
            predictions=predictions,
            assignments=list(scope.assignments.values()),
        )
        if options.sample_losses:
            return self._with_samples(evaluation, *of_samples, options.share)
        return evaluation

    def _loss(self, x, y, predictions, sample_weight, options):
        if options.loss is None:
            guard = contextlib.nullcontext()
            if not options.regularized:
                guard = _keras.without_regularization(self._network)
            with guard:
                return self._compute_loss(
                    x, y, predictions, sample_weight, training=options.training
                )
        loss = options.loss(x, y, predictions, sample_weight)
        return loss / self._replicas if self._replicas > 1 else loss

    def _with_samples(self, evaluation, of_weights, of_outputs, share):
        """The evaluation with the losses and slopes of its samples.

        A loss that is the mean of weighted losses of samples has n times their
        losses as its gradient with respect to the weights.
        """
        if of_weights is None or not any(g is not None for g in of_outputs):
            raise ValueError(_keras.NO_SAMPLE_LOSSES)
        unit = tf.cast(tf.shape(of_weights)[0], "float32")
        if share is None:
            unit = unit * self._replicas / self._loss_scale
        else:
            unit = tf.math.divide_no_nan(unit / self._loss_scale, share)
        squares = [
            tf.reduce_sum(
                tf.square(tf.cast(g, "float32")), list(range(1, len(g.shape)))
            )
            for g in of_outputs
            if g is not None
        ]
        return evaluation._replace(
            sample_losses=of_weights * unit,
            sample_slopes=tf.sqrt(tf.add_n(squares)) * unit,
        )

    @property
    def learning_rate(self):
        """The optimizer's learning rate, a scalar tensor."""
        return tf.convert_to_tensor(self._optimizer.learning_rate)

    def after_update(self, gradients):
        """The weights as an update by these gradients would leave them."""
        predicted = _keras.predict_update(
            self._optimizer, gradients, self._weights
        )
        return [
            value if new is None else tf.cast(new, value.dtype)
            for value, new in zip(self.values, predicted, strict=True)
        ]

    squared_norms = staticmethod(squared_norms)
    sums = staticmethod(sums)
    mean_over_replicas = staticmethod(replicas.mean)
    is_tracing = staticmethod(replicas.is_tracing)
    compiled = staticmethod(functions.compiled)
    require = staticmethod(require)
    after = staticmethod(after)

    def repeat(self, times, body, initial):
        """`body(index, tensors)` some times over, in a loop of the graph."""
        present = [i for i, t in enumerate(initial) if t is not None]

        def packed(tensors):
            result = [None] * len(initial)
            for i, tensor in zip(present, tensors, strict=True):
                result[i] = tensor
            return result

        def advance(index, tensors):
            result = body(index, packed(tensors))
            return [result[i] for i in present]

        tensors = [initial[i] for i in present]
        # A loop of the graph cannot communicate between replicas.
        if times < 1 or (self._replicas > 1 and self._synchronize):
            for index in range(times):
                tensors = advance(tf.constant(index), tensors)
        else:
            tensors = ops.fori_loop(0, times, advance, tensors)
        return packed(tensors)

    def assign(self, assignments):
        """Carries out `(variable, value)` pairs."""
        for variable, value in assignments:
            variable.assign(value)

    def remember(self, assignments):
        """Carries out those of a method's memory."""
        if self._agrees:
            write_all(assignments)
        else:
            self.assign(assignments)

    def apply(self, gradients, variables, is_finite=None, active=None):
        """One update of the optimizer.

        Args:
            gradients: List with an entry a weight.
            variables: The trainable variables, in the optimizer's order.
            is_finite: Whether there was no overflow on any replica; `None`: not
                known.
            active: List with a boolean scalar a weight: where it is false, the
                weight and what the optimizer remembers of it stay. `None`: all
                are active.
        """
        position = {id(v): i for i, v in enumerate(self._weights)}
        held = inactive(self._optimizer, self._weights, active)
        scaled = [
            self._scale(gradients[position[id(v)]], v.dtype) for v in variables
        ]
        if is_finite is not None and tf.is_tensor(self._loss_scale):
            scaled = all_or_none(scaled, is_finite)
        guard = contextlib.nullcontext()
        if self._agrees or self._replicas == 1:
            # On one replica there is nothing to reduce; and TensorFlow would
            # keep the graph of each compiled step for good, as it keeps those
            # with custom gradients, of which its all-reduce is one.
            guard = _keras.already_reduced(self._optimizer)
        with guard:
            self._optimizer.apply(scaled, variables)
        give_back(held)

    def displace(self, displacements, is_finite):
        """Adds a tensor to each weight; `None` leaves it alone.

        Nothing is added unless all is finite.
        """
        if self._optimizer.gradient_accumulation_steps:
            raise ValueError(
                "This method moves the weights itself after each update, and "
                "an optimizer that accumulates gradients does not update each "
                "time. Leave accumulation out, or take a method that does not, "
                "such as methods.WSAM(decouple=False). Received: "
                "gradient_accumulation_steps="
                f"{self._optimizer.gradient_accumulation_steps}"
            )
        means = self.mean_over_replicas(displacements)
        write_all(moved(self._weights, means, is_finite))

    def _promoted(self, at):
        """Layers of 16-bit weights that are given float32 values, by id."""
        return {
            id(layer): layer
            for layer, variable, value in zip(
                self._layer_of, self._weights, at, strict=True
            )
            if ops.dtype(value) != variable.dtype
        }

    def _unscale(self, scaled, wrt, options):
        """Gradients in the units of the loss, from those of the tape."""
        present = [i for i in wrt if scaled[i] is not None]
        gradients = list(scaled)
        for i in present:
            if i in self._dense or options.dense:
                gradients[i] = in_float32(dense(scaled[i]))
        factor = 1.0
        reduces = self._synchronize and not options.local
        if self._replicas > 1 and reduces and present:
            reduced = tf.distribute.get_replica_context().all_reduce(
                "SUM", [gradients[i] for i in present]
            )
            for i, gradient in zip(present, reduced, strict=True):
                gradients[i] = gradient
        elif self._replicas > 1:
            factor = float(self._replicas)
        if not is_one(self._loss_scale):
            factor = factor / self._loss_scale
        for i in present:
            if not is_one(factor):
                gradients[i] = times(gradients[i], factor)
            self._scaled[id(gradients[i])] = (gradients[i], scaled[i])
        return gradients

    def _scale(self, gradient, dtype):
        """A gradient as the optimizer expects it: scaled, of one replica."""
        if gradient is None:
            return None
        if id(gradient) in self._scaled:
            # Handed back as it came: nothing is rounded twice.
            return cast(dtype, self._scaled[id(gradient)][1])
        factor = self._loss_scale
        if self._replicas > 1 and not self._agrees:
            factor = factor / self._replicas
        if not is_one(factor):
            gradient = times(gradient, factor)
        return cast(dtype, gradient)
