"""ASAM: adaptive sharpness-aware minimization."""

from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import in_float32
from keras_lwsam.methods.base import TwoGradientMethod, register
from keras_lwsam.perturbations import adaptive


@register
class ASAM(TwoGradientMethod):
    r"""Adaptive SAM: large weights are perturbed more than small ones.

    $$ \epsilon = \rho \, \frac{T^2 g}{\lVert T g \rVert_2}, \qquad
       T = |w| + \eta \ \text{ on weights}, \quad 1 \ \text{ on biases} $$

    Rescaling a layer and undoing it in the next does not change the
    perturbation's effect. Biases and the `beta` of normalization layers keep
    T = 1; their `gamma` counts as a weight.

    Args:
        rho: Radius in units of the weights' own size, a float >= 0 or a
            schedule. Defaults to `0.5`; `0` is the base optimizer, bit for
            bit.
        eta: Added to |w|, a float >= 0. Defaults to `0.01`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is negative.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.ASAM(rho=1.0)
    ASAM(rho=1.0, eta=0.01)

    References:
        Kwon, Kim, Park, Choi: ASAM: Adaptive Sharpness-Aware Minimization for
        Scale-Invariant Learning of Deep Neural Networks, ICML 2021,
        arXiv:2102.11600.
    """

    def __init__(self, rho=0.5, eta: float = 0.01):
        super().__init__(rho)
        self.eta = _arguments.real("eta", eta, minimum=0.0)

    def perturb(self, step, gradients):
        scales = [
            None if _is_bias(variable) else ops.abs(in_float32(w)) + self.eta
            for w, variable in zip(step.values, step.variables, strict=True)
        ]
        rho = step.radius(self.rho)
        return adaptive(gradients, scales, rho), step.state


def _is_bias(variable):
    name = variable.name
    return name in ("bias", "beta") or (
        name.endswith("_bias") and len(variable.shape) == 1
    )
