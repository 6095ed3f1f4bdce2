"""StableSAM, and its renormalization for every method."""

from keras_lwsam import _arguments
from keras_lwsam._tensors import scale
from keras_lwsam.combinations import renormalize
from keras_lwsam.methods.base import TwoGradientMethod, register
from keras_lwsam.methods.composed import Around
from keras_lwsam.perturbations import along_gradient


@register
class Renormalized(Around):
    r"""A method whose step keeps the length of the clean gradient.

    $$ \hat g = \frac{\lVert g \rVert_2}{\lVert \tilde g \rVert_2 + 10^{-12}}
       \, \tilde g \ \text{ on S} $$

    with g~ what the method hands to the optimizer, and norms over the selected
    weights S; elsewhere g~.

    Args:
        method: A `Method` that takes a clean gradient.

    Raises:
        TypeError: If `method` is not a `Method`.
        ValueError: While training, if the method takes no clean gradient.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.Renormalized(methods.ASAM())
    Renormalized(method=ASAM(rho=0.5, eta=0.01))

    References:
        Tan et al.: Stabilizing Sharpness-Aware Minimization Through A Simple
        Renormalization Strategy, JMLR 2025, arXiv:2401.07250.
    """

    def update(self, step):
        update = self.method.update(step)
        is_clean = self.method.takes_clean_gradient
        if update.gradient_norm is None or not is_clean:
            raise ValueError(
                "`Renormalized` needs a method that takes a clean gradient, "
                "such as methods.SAM(): its length is the one to keep. "
                f"Received: method={self.method!r}"
            )
        return update._replace(
            gradients=renormalize(
                update.gradients, update.gradient_norm, step.selected
            )
        )


@register
class StableSAM(TwoGradientMethod):
    r"""SAM whose step keeps the length of the clean gradient.

    $$ \hat g = \frac{\lVert g \rVert_2}{\lVert \tilde g \rVert_2 + 10^{-12}}
       \, \tilde g \ \text{ on S}, \qquad
       \tilde g = \nabla L(w + \rho g)
       \ \text{ or } \ \nabla L(w + \rho g / \lVert g \rVert_2) $$

    and g~ elsewhere. `Renormalized` does the same to any other method.

    Args:
        rho: Radius, a float >= 0 or a schedule. Without `normalize` the
            perturbation is `rho` times as long as the gradient. Defaults to
            `0.05`; `0` is the base optimizer, bit for bit.
        normalize: Whether the perturbation has length `rho`, as in SAM.
            Defaults to `False`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `rho` is negative.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.StableSAM(rho=0.1)
    StableSAM(rho=0.1, normalize=False)

    References:
        Tan et al.: Stabilizing Sharpness-Aware Minimization Through A Simple
        Renormalization Strategy, JMLR 2025, arXiv:2401.07250.
    """

    def __init__(self, rho=0.05, normalize: bool = False):
        super().__init__(rho)
        self.normalize = _arguments.boolean("normalize", normalize)

    def perturb(self, step, gradients):
        climb = along_gradient if self.normalize else scale
        return climb(gradients, step.radius(self.rho)), step.state

    def update(self, step):
        update = super().update(step)
        return update._replace(
            gradients=renormalize(
                update.gradients, update.gradient_norm, step.selected
            )
        )
