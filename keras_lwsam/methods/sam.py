"""SAM: sharpness-aware minimization."""

from keras_lwsam.methods.base import TwoGradientMethod, register


@register
class SAM(TwoGradientMethod):
    r"""Sharpness-aware minimization: the gradient at the worst nearby point.

    $$ \epsilon = \rho \, \frac{g}{\lVert g \rVert_2}, \qquad
       g = \nabla L(w), \qquad
       w \leftarrow \mathrm{optimizer}(w, \nabla L(w + \epsilon)) $$

    Norm and perturbation run over the selected layers S; the step is taken
    along the gradient of all weights. With S the few layers of the largest
    gradient norm this is layer-wise SAM; with S all layers it is SAM.

    Args:
        rho: Radius of the perturbation, a float >= 0, in units of the weights.
            Defaults to `0.05`; `0` is the base optimizer, bit for bit.

    Raises:
        TypeError: If `rho` is not a real number.
        ValueError: If `rho` is negative or not finite.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.SAM(rho=0.1)
    SAM(rho=0.1)

    References:
        Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for
        Efficiently Improving Generalization, ICLR 2021, arXiv:2010.01412.
        Lee: layer-wise gradient norm penalizing, KDD 2024, arXiv:2503.14205.
    """

    def __init__(self, rho=0.05):
        super().__init__(rho)
