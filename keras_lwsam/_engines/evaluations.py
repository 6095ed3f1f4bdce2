"""Loss, gradients and Hessian products of one network, outside training."""

import abc

from keras import ops

from keras_lwsam import _keras
from keras_lwsam._tensors import in_float32


class Evaluations(abc.ABC):
    """Compiled functions of a batch and of the values of the weights.

    Layers of 16 bits compute in float32: differences of losses, and second
    derivatives, are lost in 16 bits. A backend adds `_compiled` and `_product`.

    Args:
        network: The `keras.Model`.
        make_engine: Function without arguments to an engine for it.
        wrt: Indices of the weights to differentiate with respect to.
        training: Whether the network is called as in training.
        eagerly: Whether nothing is compiled.
    """

    def __init__(self, network, make_engine, wrt, training, eagerly):
        self._network = network
        self._make_engine = make_engine
        self._wrt = tuple(wrt)
        self._training = training
        compiled = (lambda f: f) if eagerly else self._compiled
        self.loss = compiled(self._loss)
        self.gradients = compiled(self._gradients)
        self.product = compiled(self._product)

    @staticmethod
    @abc.abstractmethod
    def _compiled(function):
        """The function, compiled."""

    def values(self, variables):
        """The present values, tensors of at least float32."""
        engine = self._make_engine()
        return [in_float32(value) for value in engine.snapshot(variables)]

    def _loss(self, batch, at):
        """The loss, a scalar."""
        return self._evaluate(batch, at, ()).loss

    def _gradients(self, batch, at):
        """The gradients, one for each index of `wrt`; zeros for none."""
        gradients = self._evaluate(batch, at, self._wrt).gradients
        return [
            ops.zeros_like(at[i]) if gradients[i] is None else gradients[i]
            for i in self._wrt
        ]

    @abc.abstractmethod
    def _product(self, batch, at, vectors):
        """The Hessian times `vectors`, one for each index of `wrt`."""

    def _evaluate(self, batch, at, wrt):
        with _keras.wholly_in_float32(self._network):
            return self._make_engine().gradients(
                batch, at, wrt, dense=True, training=self._training
            )
