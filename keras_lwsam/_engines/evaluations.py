"""Loss, gradients and Hessian products of one network, outside training."""

import tensorflow as tf

from keras_lwsam._engines.gradients import dense
from keras_lwsam._tensors import dot


class Evaluations:
    """Compiled functions of a batch and of the values of the weights.

    Args:
        make_engine: Function without arguments to an engine.
        wrt: Indices of the weights to differentiate with respect to.
        training: Whether the network is called as in training.
        eagerly: Whether nothing is compiled.
    """

    def __init__(self, make_engine, wrt, training, eagerly):
        self._make_engine = make_engine
        self._wrt = tuple(wrt)
        self._training = training
        compiled = (lambda f: f) if eagerly else tf.function
        self.loss = compiled(self._loss)
        self.gradients = compiled(self._gradients)
        self.product = compiled(self._product)

    def _loss(self, batch, at):
        """The loss, a scalar."""
        return self._evaluate(batch, at, ()).loss

    def _gradients(self, batch, at):
        """The gradients, one for each index of `wrt`; zeros for none."""
        gradients = self._evaluate(batch, at, self._wrt).gradients
        return [
            tf.zeros_like(at[i]) if gradients[i] is None else gradients[i]
            for i in self._wrt
        ]

    def _product(self, batch, at, vectors):
        r"""The Hessian times `vectors`, by differentiating twice.

        $$ H v = \nabla \langle \nabla L(w), v \rangle $$
        """
        leaves = [at[i] for i in self._wrt]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            slope = dot(self._gradients(batch, at), vectors)
        products = tape.gradient(slope, leaves)
        return [
            tf.zeros_like(leaf) if product is None else dense(product)
            for leaf, product in zip(leaves, products, strict=True)
        ]

    def _evaluate(self, batch, at, wrt):
        return self._make_engine().gradients(
            batch, at, wrt, dense=True, training=self._training
        )
