"""The JAX engine: pure functions of a step's state, compiled."""

import contextlib
import functools

import jax
from jax import numpy as jnp
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines import arrays
from keras_lwsam._engines.engine import Engine
from keras_lwsam._engines.evaluation import Evaluation
from keras_lwsam._engines.jax import operations
from keras_lwsam._engines.jax.carrier import Arguments, carried
from keras_lwsam._engines.jax.evaluations import Evaluations
from keras_lwsam._engines.jax.programs import merged, note_pass
from keras_lwsam._engines.jax.taps import Taps, noted
from keras_lwsam._engines.scopes import Pass


class JaxEngine(Engine):
    """Evaluates and applies gradients of one step, as functions of its state.

    Several devices (`keras.distribution`) are one replica: the compiled step
    is that of the global batch.
    """

    carrier = Arguments
    evaluations = Evaluations
    operations = operations

    @staticmethod
    def step(model, take):
        """`take(batch)`, as a function of the state of `model`, too."""

        def program(state, batch):
            with carried(model, state) as new:
                logs = take(batch)
            return logs, new()

        if model.run_eagerly or not model.jit_compile:
            return program
        return functools.partial(merged, program)

    @staticmethod
    def compiled(function, example, jit_compile=False):
        """A function of one argument, compiled for arguments like an example.

        What is not XLA's is nobody's on JAX: it is compiled in any case.
        """
        return jax.jit(functools.partial(merged, function))

    @staticmethod
    def is_tracing():
        return isinstance(jnp.zeros(()) + 0, jax.core.Tracer)

    @staticmethod
    def require(condition, message):
        # A compiled step of JAX cannot raise.
        if not isinstance(condition, jax.core.Tracer):
            Engine.require(condition, message)

    @staticmethod
    def snapshot(variables):
        return [v.value for v in variables]

    def _pass(self, batch, at, wrt, options):
        note_pass()
        taps = Taps()

        def scaled_loss(leaves, ones, zeros):
            taps.begin(zeros)
            moved = list(at)
            for i, leaf in zip(wrt, leaves, strict=True):
                moved[i] = leaf
            scope = Pass(
                self._weights,
                moved,
                self._rest,
                wrt,
                # As in Keras's own step on JAX, gradients flow through what a
                # layer assigns to a weight in training, ...
                lambda value: value,
                lambda value, index: value,
            )
            x, y, sample_weight = batch
            guard = contextlib.nullcontext()
            if options.sample_losses:
                weights = noted(ones, depending.append)
                x, y, sample_weight = arrays.weighted(batch, weights)
                guard = self._per_sample(arrays.has_positions(sample_weight))
            with scope:
                predictions = _keras.call(self._network, x, options.training)
                if options.sample_losses:
                    predictions = tree.map_structure(
                        functools.partial(_keras.keeping_mask, taps.on),
                        predictions,
                        none_is_leaf=True,
                    )
                with guard:
                    loss = self._loss(x, y, predictions, sample_weight, options)
            variables, values = [], []
            for variable, value in scope.assignments.values():
                # ... and nothing of it is kept.
                if not variable.trainable:
                    variables.append(variable)
                    values.append(value)
            assigned[:] = variables
            scaled = self._optimizer.scale_loss(loss)
            return scaled, (loss, predictions, values)

        assigned, depending = [], []
        differentiate = jax.value_and_grad(
            scaled_loss, argnums=(0, 1, 2), has_aux=True
        )
        leaves = [at[i] for i in wrt]
        ones = jnp.ones(arrays.size(batch)) if options.sample_losses else None
        (_, results), found = differentiate(leaves, ones, [])
        if taps.shapes:
            # Only now it is known what to differentiate with respect to.
            (_, results), found = differentiate(leaves, ones, taps.zeros())
        loss, predictions, values = results
        of_leaves, of_ones, of_taps = found
        gradients = [None] * len(at)
        for i, gradient in zip(wrt, of_leaves, strict=True):
            gradients[i] = gradient
        evaluation = Evaluation(
            loss=loss,
            gradients=gradients,
            predictions=predictions,
            assignments=list(zip(assigned, values, strict=True)),
        )
        if not options.sample_losses:
            return evaluation
        return self._with_samples(
            evaluation, of_ones if depending else None, of_taps
        )

    def _conditionally(self, when, evaluate, at, wrt):
        def compute():
            evaluation = evaluate()
            return evaluation.loss, [evaluation.gradients[i] for i in wrt]

        def skip():
            shapes = jax.eval_shape(compute)
            return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        loss, computed = jax.lax.cond(when, compute, skip)
        gradients = [None] * len(at)
        for i, gradient in zip(wrt, computed, strict=True):
            gradients[i] = gradient
        return Evaluation(loss=loss, gradients=gradients)

    def _update(self, gradients, variables):
        # As `fit` on JAX has it: a weight without influence has zeros.
        gradients = [
            jnp.zeros_like(v.value) if g is None else g
            for g, v in zip(gradients, variables, strict=True)
        ]
        own = self._optimizer.variables
        new, state = self._optimizer.stateless_apply(
            [v.value for v in own], gradients, [v.value for v in variables]
        )
        self.assign(zip(variables, new, strict=True))
        self.assign(zip(own, state, strict=True))
