"""LookSAM: the sharp direction, kept for some steps."""

from keras_lwsam import _arguments
from keras_lwsam._tensors import (
    choose,
    global_norm,
    linear,
    overlay,
    ratio,
    restrict,
    scale,
    zeros_like,
)
from keras_lwsam.combinations import perpendicular
from keras_lwsam.methods.base import TwoGradientMethod, Update, register


@register
class LookSAM(TwoGradientMethod):
    r"""SAM every k-th step; between, its direction from the last time.

    When t mod k = 0 the step is SAM's, and what the sharp gradient has
    perpendicular to the clean one is kept:

    $$ g_v = \tilde g - \frac{\langle g, \tilde g \rangle}
                             {\lVert g \rVert_2^2} \, g $$

    In the other steps there is one gradient, and on S

    $$ g + \alpha \, \frac{\lVert g \rVert_2}{\lVert g_v \rVert_2} \, g_v $$

    is applied. Norms are over the selected weights S. A g_v that is rounding
    noise (shorter than 1e-6 times g~) counts as zero.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        k: How many steps the direction serves, a positive int. Defaults to
            `5`; `1` is SAM.
        alpha: Length of the kept direction relative to the gradient, a float
            >= 0. Defaults to `0.7`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.LookSAM(k=10)
    LookSAM(rho=0.05, k=10, alpha=0.7)

    References:
        Liu, Mai, Chen, Hsieh, You: Towards Efficient and Scalable
        Sharpness-Aware Minimization, CVPR 2022, arXiv:2203.02714.
    """

    def __init__(self, rho=0.05, k: int = 5, alpha: float = 0.7):
        super().__init__(rho)
        self.k = _arguments.count("k", k)
        self.alpha = _arguments.real("alpha", alpha, minimum=0.0)

    def phase(self, clock):
        return "look" if clock.step % self.k == 0 else "reuse"

    def initial_state(self, weights):
        return {"kept": zeros_like(weights)}

    def update(self, step):
        if step.phase == "reuse":
            return self.reuse(step)
        return super().update(step)

    def reuse(self, step):
        """The step of one gradient."""
        clean = step.gradients(at=step.values, wrt=step.weights)
        known = restrict(clean.gradients, step.selected)
        looked = along_kept(known, step.state["kept"], self.alpha)
        return Update(
            gradients=overlay(clean.gradients, looked),
            state=step.state,
            measured=clean.gradients,
            gradient_norm=global_norm(known),
        )

    def remember(self, state, clean, sharp):
        return {"kept": overlay(state["kept"], kept_part(clean, sharp))}


def kept_part(clean, sharp):
    """What LookSAM keeps: the sharp gradient's part beside the clean one."""
    sharp = [
        s if c is not None else None for c, s in zip(clean, sharp, strict=True)
    ]
    part = perpendicular(sharp, clean)
    is_noise = global_norm(part) < 1e-6 * global_norm(sharp)
    return choose(is_noise, scale(part, 0.0), part)


def along_kept(gradients, kept, alpha):
    """The gradient, and the kept part at `alpha` times its length."""
    kept = restrict(kept, [i for i, g in enumerate(gradients) if g is not None])
    factor = alpha * ratio(global_norm(gradients), global_norm(kept))
    return linear(1.0, gradients, factor, kept)
