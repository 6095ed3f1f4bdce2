"""The TensorFlow engine: `tf.GradientTape` and `tf.distribute`."""

import contextlib

import tensorflow as tf
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines.engine import Engine, is_one
from keras_lwsam._engines.evaluation import Evaluation
from keras_lwsam._engines.tensorflow import (
    batches,
    functions,
    halves,
    operations,
    replicas,
)
from keras_lwsam._engines.tensorflow.carrier import Graphs
from keras_lwsam._engines.tensorflow.evaluations import Evaluations
from keras_lwsam._engines.tensorflow.gradients import (
    all_or_none,
    cast,
    dense,
    squared_norms,
    times,
    total,
)
from keras_lwsam._engines.tensorflow.loops import Loops
from keras_lwsam._engines.tensorflow.passes import (
    conditionally,
    require,
    watched_by,
)
from keras_lwsam._engines.tensorflow.variables import (
    after,
    snapshot,
    write_all,
)
from keras_lwsam._optimizers import already_reduced
from keras_lwsam._tensors import in_float32


class TensorFlowEngine(Engine):
    """Evaluates and applies gradients of one step, on every replica."""

    batches = batches
    carrier = Graphs
    evaluations = Evaluations
    operations = operations
    replicas = replicas

    def __init__(self, *args, **kwargs):
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # Whether the gradients to apply are the same on all replicas.
        self._agrees = False
        super().__init__(*args, **kwargs)

    def look(self):
        super().look()
        self._loops = Loops(self._network)

    def side_by_side(self, passes, wrt):
        """As of `Engine`: each on half of the replicas, if that can be.

        The gradients are then those of the global batch.
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
        return (
            self._synchronize
            and self._replicas > 1
            and batches.are_dense(batch)
        )

    def _pass(self, batch, at, wrt, options):
        x, y, sample_weight = batch
        guard = contextlib.nullcontext()
        if options.sample_losses:
            ones = tf.ones((batches.size(batch),))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if options.sample_losses:
                tape.watch(ones)
                x, y, sample_weight = batches.weighted(batch, ones)
                guard = self._per_sample(batches.has_positions(sample_weight))
            scope = watched_by(tape, self._weights, at, self._rest, wrt)
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

    def _conditionally(self, when, evaluate, at, wrt):
        return conditionally(when, evaluate, at, wrt)

    def _loss(self, x, y, predictions, sample_weight, options):
        loss = super()._loss(x, y, predictions, sample_weight, options)
        if options.loss is None or self._replicas == 1:
            return loss
        # As Keras does to the compiled one.
        return loss / self._replicas

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

    squared_norms = staticmethod(squared_norms)
    mean_over_replicas = staticmethod(replicas.mean)
    is_tracing = staticmethod(replicas.is_tracing)
    compiled = staticmethod(functions.compiled)
    require = staticmethod(require)
    after = staticmethod(after)
    snapshot = staticmethod(snapshot)

    def _loop(self, times, advance, tensors):
        # A loop of the graph cannot communicate between replicas.
        if self._replicas > 1 and self._synchronize:
            for index in range(times):
                tensors = advance(tf.constant(index), tensors)
            return tensors
        return super()._loop(times, advance, tensors)

    def remember(self, assignments):
        if self._agrees:
            write_all(assignments)
        else:
            self.assign(assignments)

    def _write(self, assignments):
        write_all(list(assignments))

    def _update(self, gradients, variables):
        guard = contextlib.nullcontext()
        if self._agrees or self._replicas == 1:
            # On one replica there is nothing to reduce; and TensorFlow would
            # keep the graph of each compiled step for good, as it keeps those
            # with custom gradients, of which its all-reduce is one.
            guard = already_reduced(self._optimizer)
        with guard:
            self._optimizer.apply(gradients, variables)

    _all_or_none = staticmethod(all_or_none)

    def _unscale(self, scaled, wrt, options):
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
