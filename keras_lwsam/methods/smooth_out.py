"""SmoothOut: gradients at randomly perturbed weights."""

import keras
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import in_float32
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)


@register
class SmoothOut(Method):
    r"""The gradient at weights with uniform noise.

    $$ \nabla L(w + a \, s \odot u), \qquad u \sim U(-1, 1) $$

    on S without BatchNorm, with s = 1, |w| or the norm of each filter. One
    gradient a step, so loss and metrics are those at the noisy weights.

    Args:
        a: Half width of the noise, a float >= 0. Defaults to `0.006`; `0` is
            the base optimizer, bit for bit.
        scale: `None`: s = 1. `"weight"`: s = |w|. `"filter"`: the L2 norm of
            the weights of the same last axis, the output of Keras's kernels
            (the input of transposed convolutions). Defaults to `None`.

    Raises:
        TypeError: If `a` is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.SmoothOut(a=0.1, scale="weight")
    SmoothOut(a=0.1, scale='weight')

    References:
        Wen, Wang, Yan, Xu, Wu, Chen, Li: SmoothOut: Smoothing Out Sharp Minima
        to Improve Generalization in Deep Learning, arXiv:1805.07898.
    """

    def __init__(self, a: float = 0.006, scale: str | None = None):
        self.a = _arguments.real("a", a, minimum=0.0)
        self.scale = _arguments.choice(
            "scale", scale, (None, "weight", "filter")
        )

    @property
    def is_plain(self):
        return self.a == 0.0

    def noise(self, step, value):
        """The perturbation of one weight."""
        value = in_float32(value)
        uniform = keras.random.uniform(
            ops.shape(value), -1.0, 1.0, value.dtype, seed=step.seed()
        )
        if self.scale == "weight":
            uniform = uniform * ops.abs(value)
        elif self.scale == "filter":
            axes = tuple(range(len(value.shape) - 1))
            squares = ops.sum(ops.square(value), axis=axes, keepdims=True)
            uniform = uniform * ops.sqrt(squares)
        return self.a * uniform

    def update(self, step):
        epsilon = [
            self.noise(step, value)
            if index in step.selected
            and not isinstance(layer, keras.layers.BatchNormalization)
            else None
            for index, (value, layer) in enumerate(
                zip(step.values, step.layers, strict=True)
            )
        ]
        noisy = step.gradients(at=displaced(step, epsilon), wrt=step.weights)
        return Update(
            gradients=noisy.gradients,
            state=step.state,
            views=seen(step, epsilon, sharp=noisy),
        )
