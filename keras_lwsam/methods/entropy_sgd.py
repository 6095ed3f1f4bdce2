"""EntropySGD: descent of the local entropy."""

import keras
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import (
    combine,
    global_norm,
    in_float32,
    linear,
    overlay,
    restrict,
    subtract,
)
from keras_lwsam.methods.base import Method, Update, register

# Rate of the Langevin steps, and weight of the newest point in the mean.
_INNER_RATE = 0.1
_NEW_SHARE = 0.25


@register
class EntropySGD(Method):
    r"""Descends the local entropy: towards the middle of a wide valley.

    From w' = mu = w, on one batch, `steps` times

    $$ w' \leftarrow w' - 0.1 \, (\nabla L(w') + \gamma (w' - w)
          + \sigma \xi), \qquad
       \mu \leftarrow 0.75 \mu + 0.25 w', $$

    with $\gamma = \gamma_0 (1 + \gamma_1)^t$ and normal $\xi$; the optimizer
    is given w - mu on S. Elsewhere it is given the gradients of the same steps,
    averaged in the same way.

    Args:
        steps: Number of Langevin steps, a positive int. Defaults to `20`.
        gamma0: Scope of the valley at first, a float >= 0. Defaults to `0.03`.
        gamma1: Growth of the scope in each training step t, a float >= 0.
            Defaults to `1e-3`.
        noise: Standard deviation sigma of the noise, a float >= 0. Defaults
            to `1e-4`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.EntropySGD(steps=5)
    EntropySGD(steps=5, gamma0=0.03, gamma1=0.001, noise=0.0001)

    References:
        Chaudhari et al.: Entropy-SGD: Biasing Gradient Descent Into Wide
        Valleys, ICLR 2017, arXiv:1611.01838.
    """

    def __init__(
        self,
        steps: int = 20,
        gamma0: float = 0.03,
        gamma1: float = 1e-3,
        noise: float = 1e-4,
    ):
        self.steps = _arguments.count("steps", steps)
        self.gamma0 = _arguments.real("gamma0", gamma0, minimum=0.0)
        self.gamma1 = _arguments.real("gamma1", gamma1, minimum=0.0)
        self.noise = _arguments.real("noise", noise, minimum=0.0)

    def update(self, step):
        selected, width = step.selected, len(step.values)
        start = [
            in_float32(v) if i in selected else None
            for i, v in enumerate(step.values)
        ]
        age = ops.cast(step.number, "float32")
        gamma = self.gamma0 * ops.power(1.0 + self.gamma1, age)

        def walk(index, lists, gradients=None):
            point, middle, mean = (
                lists[i * width : (i + 1) * width] for i in range(3)
            )
            if gradients is None:
                gradients = step.gradients(
                    at=overlay(step.values, point),
                    wrt=step.weights,
                    dense=True,
                ).gradients
            drift = linear(
                1.0,
                restrict(gradients, selected),
                gamma,
                subtract(point, start),
            )
            drift = self.noisy(step, index, drift)
            # A weight without a gradient stays where it is.
            point = overlay(point, linear(1.0, point, -_INNER_RATE, drift))
            middle = linear(1.0 - _NEW_SHARE, middle, _NEW_SHARE, point)
            mean = linear(1.0 - _NEW_SHARE, mean, _NEW_SHARE, gradients)
            return [*point, *middle, *mean]

        first = step.gradients(at=step.values, wrt=step.weights, dense=True)
        gradients = combine(lambda g: g, first.gradients)
        lists = [*start, *start, *gradients]
        lists = walk(0, lists, gradients)
        lists = step.repeat(self.steps - 1, lambda i, x: walk(i + 1, x), lists)
        middle, mean = lists[width : 2 * width], lists[2 * width :]
        trained = [i for i in selected if gradients[i] is not None]
        return Update(
            gradients=overlay(mean, restrict(subtract(start, middle), trained)),
            state=step.state,
            measured=gradients,
            gradient_norm=global_norm(restrict(gradients, selected)),
        )

    def noisy(self, step, index, drift):
        """The drift with noise on every weight."""
        if self.noise == 0.0:
            return drift
        return combine(
            lambda d: (
                d
                + self.noise
                * keras.random.normal(
                    ops.shape(d), dtype=d.dtype, seed=step.seed(index)
                )
            ),
            drift,
        )
