"""BiSAM: bilevel sharpness-aware minimization."""

import math

from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import in_float32
from keras_lwsam.methods import _labels
from keras_lwsam.methods.base import (
    TwoGradientMethod,
    register,
)

# Makes the lower bound of the zero-one loss touch it at 0.
_SHIFT = math.log(math.e - 1.0)


@register
class BiSAM(TwoGradientMethod):
    r"""Perturbs to raise the rate of errors, not an upper bound of it.

    $$ Q = \frac{1}{\mu} \log \sum_j e^{\mu \, \varphi(F_j)}, \qquad
       F_j = z_j - z_y, \qquad
       \epsilon = \rho \, \nabla Q / \lVert \nabla Q \rVert_2 $$

    with the logits z and the label y; Q is averaged over the batch, without
    regularization. The step descends the ordinary loss at w + epsilon.

    $\varphi(x) = 1 - \log(1 + e^{c - x})$ with $c = \log(e - 1)$ ("log"), or
    $\varphi(x) = \tanh(\alpha x)$ ("tanh", usually with `mu=10`).

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        mu: Sharpness of the maximum over classes, a float > 0. Defaults to
            `1.0`.
        phi: `"log"` or `"tanh"`. Defaults to `"log"`.
        alpha: Slope of the tanh, a float > 0. Defaults to `0.1`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; while training, if the
            labels are not classes (integer or one-hot) or the network does not
            return logits.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.BiSAM(phi="tanh", mu=10.0)
    BiSAM(rho=0.05, mu=10.0, phi='tanh', alpha=0.1)

    References:
        Xie, Latorre, Antonakopoulos, Pethick, Cevher: Improving SAM Requires
        Rethinking its Optimization Formulation, ICML 2024, arXiv:2407.12993.
    """

    takes_clean_gradient = False

    def __init__(
        self,
        rho=0.05,
        mu: float = 1.0,
        phi: str = "log",
        alpha: float = 0.1,
    ):
        super().__init__(rho)
        self.mu = _arguments.positive("mu", mu)
        self.phi = _arguments.choice("phi", phi, ("log", "tanh"))
        self.alpha = _arguments.positive("alpha", alpha)

    def update(self, step):
        clean = step.gradients(at=step.values, wrt=())

        def errors(x, y, predictions, sample_weight):
            return self.error_bound(y, predictions, step.loss)

        climb = step.gradients(at=step.values, wrt=step.ascent, loss=errors)
        return self.descend(step, clean.loss, climb.gradients)

    def error_bound(self, y, predictions, loss):
        """The mean of Q over the batch."""
        logits = _labels.logits_of("BiSAM", predictions, loss)
        logits = in_float32(logits)
        shape = logits.shape
        y = _labels.class_indices("BiSAM", y, shape[-1], rank=len(shape))
        own = ops.take_along_axis(logits, y[..., None], axis=-1)
        margins = logits - own
        if self.phi == "log":
            bounds = 1.0 - ops.softplus(_SHIFT - margins)
        else:
            bounds = ops.tanh(self.alpha * margins)
        q = ops.logsumexp(self.mu * bounds, axis=-1) / self.mu
        return ops.mean(q)
