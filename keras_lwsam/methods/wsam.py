"""WSAM: weighted sharpness-aware minimization."""

from keras_lwsam import _arguments
from keras_lwsam._tensors import overlay, restrict, scale, subtract
from keras_lwsam.combinations import mix
from keras_lwsam.methods.base import TwoGradientMethod, register


@register
class WSAM(TwoGradientMethod):
    r"""Sharpness as a weighted regularizer, if wanted outside the momentum.

    With $c = \gamma / (1 - \gamma)$ and SAM's perturbation: coupled,

    $$ w \leftarrow \mathrm{optimizer}(w,\ g + c \, (\tilde g - g)) $$

    decoupled, the optimizer applies g and then

    $$ w \leftarrow w - lr \, c \, (\tilde g - g) $$

    on S; elsewhere the optimizer applies g~.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        gamma: Weight of the sharpness, a float in [0, 1). Defaults to `0.9`;
            `0.5`, coupled, is SAM; `0`, all layers selected, is the base
            optimizer.
        decouple: Whether the sharpness part is applied outside the optimizer.
            Defaults to `True`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.WSAM(gamma=0.8, decouple=False)
    WSAM(rho=0.05, gamma=0.8, decouple=False)

    References:
        Yue, Jiang, Ye, Gao, Liu, Zhang: Sharpness-Aware Minimization
        Revisited: Weighted Sharpness as a Regularization Term, KDD 2023,
        arXiv:2305.15817.
    """

    def __init__(self, rho=0.05, gamma: float = 0.9, decouple: bool = True):
        super().__init__(rho)
        self.gamma = _arguments.real("gamma", gamma, 0.0, 1.0)
        if self.gamma == 1.0:
            raise ValueError(
                "`gamma` must be smaller than 1: the weight of the sharpness "
                f"is gamma / (1 - gamma). Received: gamma={gamma!r}"
            )
        self.decouple = _arguments.boolean("decouple", decouple)

    @property
    def weight(self):
        """The weight c of the sharpness."""
        return self.gamma / (1.0 - self.gamma)

    def combine(self, clean, sharp):
        if self.decouple:
            return overlay(sharp, clean)
        return mix(clean, sharp, self.weight)

    def displace(self, step, clean, sharp):
        if not self.decouple:
            return None
        sharpness = subtract(restrict(sharp, step.selected), clean)
        return scale(sharpness, -self.weight * step.learning_rate)
