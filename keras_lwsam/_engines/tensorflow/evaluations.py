"""Hessian products by differentiating a graph twice."""

import contextlib

import keras
import tensorflow as tf

from keras_lwsam import _keras
from keras_lwsam._engines import evaluations
from keras_lwsam._engines.tensorflow.gradients import dense
from keras_lwsam._tensors import dot

# Of its gradient TensorFlow takes the derivative to be zero.
_ONCE = "ResizeBilinearGrad"

_NO_HESSIAN = (
    "The Hessian of this network cannot be had: TensorFlow has no second "
    "derivative of one of its operations. Leave eigenvalues and trace out, or "
    "take another layer."
)


class Evaluations(evaluations.Evaluations):
    """Functions of a batch and of the values of the weights, as graphs."""

    _compiled = staticmethod(tf.function)

    def _product(self, batch, at, vectors):
        r"""The Hessian times `vectors`, by differentiating twice.

        $$ H v = \nabla \langle \nabla L(w), v \rangle $$
        """
        leaves = [at[i] for i in self._wrt]
        with (
            _moments_of_all_orders(),
            tf.GradientTape(watch_accessed_variables=False) as tape,
        ):
            tape.watch(leaves)
            slope = dot(self._gradients(batch, at), vectors)
        try:
            products = tape.gradient(slope, leaves)
        except LookupError as error:
            raise ValueError(f"{_NO_HESSIAN} Received: {error}") from error
        self._refuse_what_is_differentiated_once()
        return [
            tf.zeros_like(leaf) if product is None else dense(product)
            for leaf, product in zip(leaves, products, strict=True)
        ]

    def _refuse_what_is_differentiated_once(self):
        if tf.executing_eagerly():
            # There is no graph to look at; so much can be known.
            resizes = any(
                isinstance(layer, keras.layers.UpSampling2D)
                and layer.interpolation == "bilinear"
                for layer in _keras.walk_layers(self._network)
            )
        else:
            graph = tf.compat.v1.get_default_graph()
            resizes = any(op.type == _ONCE for op in graph.get_operations())
        if resizes:
            raise ValueError(
                f"{_NO_HESSIAN} Received: {self._network.name!r}, which "
                "resizes bilinearly"
            )


@contextlib.contextmanager
def _moments_of_all_orders():
    """Lets normalization layers have right second derivatives.

    In the variance of `tf.nn.moments` the mean is a constant. That leaves the
    gradient as it is, and not what comes of differentiating it again.
    """

    def moments(x, axes, shift=None, keepdims=False, name=None):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        if not keepdims:
            mean = tf.squeeze(mean, axes)
        return mean, variance

    kept, tf.nn.moments = tf.nn.moments, moments
    try:
        yield
    finally:
        tf.nn.moments = kept
