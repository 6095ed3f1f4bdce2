"""GNP: penalizing the gradient norm."""

from keras_lwsam import _arguments
from keras_lwsam.combinations import mix
from keras_lwsam.methods.base import TwoGradientMethod, register


@register
class GNP(TwoGradientMethod):
    r"""Gradient norm penalty: a mixture of the clean and the sharp gradient.

    $$ (1 - \alpha) \, g + \alpha \, \tilde g \ \text{ on S}, \qquad
       \tilde g \ \text{ elsewhere}, \qquad
       \tilde g = \nabla L(w + \rho \, g / \lVert g \rVert_2) $$

    This is the gradient of the loss plus `alpha * rho` times the norm of its
    gradient, to first order. With `selection.KernelsOnly(...)` it is the
    layer-wise rule of the KDD 2024 paper's own code (there with `rho=0.1`,
    `alpha=0.8`, which are the defaults here).

    Args:
        rho: Radius of the perturbation, a float >= 0, in units of the weights.
            Defaults to `0.1`; `0` is the base optimizer, bit for bit.
        alpha: Share of the sharp gradient, a float in [0, 1]. Defaults to
            `0.8`; `1` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `rho` is negative or `alpha` outside [0, 1].

    Example:

    >>> from keras_lwsam import methods
    >>> methods.GNP(rho=0.05)
    GNP(rho=0.05, alpha=0.8)

    References:
        Zhao, Zhang, Hu: Penalizing Gradient Norm for Efficiently Improving
        Generalization in Deep Learning, ICML 2022, arXiv:2202.03599.
        Lee: layer-wise gradient norm penalizing, KDD 2024, arXiv:2503.14205.
    """

    def __init__(self, rho=0.1, alpha: float = 0.8):
        super().__init__(rho)
        self.alpha = _arguments.real("alpha", alpha, 0.0, 1.0)

    def combine(self, clean, sharp):
        return mix(clean, sharp, self.alpha)
