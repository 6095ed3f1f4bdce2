"""GSAM: surrogate gap guided sharpness-aware minimization."""

from keras_lwsam import _arguments
from keras_lwsam.combinations import surrogate_gap
from keras_lwsam.methods.base import TwoGradientMethod, register


@register
class GSAM(TwoGradientMethod):
    r"""Descends the perturbed loss, and the gap between it and the loss.

    $$ \tilde g - \alpha \, g_\perp \ \text{ on S}, \qquad
       g_\perp = g - \frac{\langle g, \tilde g \rangle}
                          {\lVert \tilde g \rVert_2^2} \, \tilde g $$

    and g~ elsewhere, with SAM's perturbation. The paper's radius follows the
    learning rate: `rho=schedules.FollowLearningRate(...)`.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        alpha: Weight of the gap, a float >= 0. Defaults to `0.4`; `0` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is negative.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.GSAM(alpha=0.2)
    GSAM(rho=0.05, alpha=0.2)

    References:
        Zhuang et al.: Surrogate Gap Minimization Improves Sharpness-Aware
        Training, ICLR 2022, arXiv:2203.08065.
    """

    def __init__(self, rho=0.05, alpha: float = 0.4):
        super().__init__(rho)
        self.alpha = _arguments.real("alpha", alpha, minimum=0.0)

    def combine(self, clean, sharp):
        return surrogate_gap(clean, sharp, self.alpha)
