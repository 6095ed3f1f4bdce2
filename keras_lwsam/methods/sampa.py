"""SAMPa: sharpness-aware minimization parallelized."""

from keras import ops

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import choose, linear, overlay, restrict, zeros_like
from keras_lwsam.methods.base import (
    Method,
    Update,
    Views,
    displaced,
    register,
)
from keras_lwsam.perturbations import along_gradient


@register
class SAMPa(Method):
    r"""SAM whose two gradients do not wait for each other.

    $$ y^+ = \mathrm{optimizer}(x, \nabla f(y)), \qquad
       \tilde x = x + \rho \frac{\nabla f(y)}{\lVert \nabla f(y) \rVert_2}, $$

    $$ x^+ = \mathrm{optimizer}(x,\ (1 - \lambda) \nabla f(\tilde x)
             + \lambda \nabla f(y^+)) $$

    The gradient at x~ is that of the previous batch, which made grad f(y); the
    one at y+ is that of the present batch, and becomes the next grad f(y).
    Both points are known when the step begins: on an even number of replicas
    one half computes one gradient and the other half the other, each on a whole
    global batch, and one all-reduce tells both. The first step is plain.

    y+ follows the optimizer's whole update, momentum and weight decay
    included; where the optimizer accumulates gradients, and for Nadam,
    y+ = x - lr grad f(y).

    Loss and metrics are those at y+. The perturbation is on S; y+ moves all
    weights.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.1`.
        interpolation: The weight lambda of the gradient at y+, a float in
            [0, 1]. Defaults to `0.2`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If `rho` is negative or `interpolation` outside [0, 1].

    Example:

    >>> from keras_lwsam import methods
    >>> methods.SAMPa(rho=0.2)
    SAMPa(rho=0.2, interpolation=0.2)

    References:
        Xie, Pethick, Cevher: SAMPa: Sharpness-aware Minimization Parallelized,
        NeurIPS 2024, arXiv:2410.10683.
    """

    needs_previous_batch = True

    def __init__(self, rho=0.1, interpolation: float = 0.2):
        self.rho = schedules.check_rho("rho", rho)
        self.interpolation = _arguments.real(
            "interpolation", interpolation, 0.0, 1.0
        )

    def initial_state(self, weights):
        return {"gradient": zeros_like(weights)}

    def update(self, step):
        at_y_before = step.state["gradient"]
        ascent = restrict(at_y_before, step.ascent)
        epsilon = along_gradient(ascent, step.radius(self.rho))
        is_first = ops.equal(step.number, 0)
        y = [
            ops.where(is_first, value, ops.cast(new, value.dtype))
            for value, new in zip(
                step.values, step.after_update(at_y_before), strict=True
            )
        ]
        at_y, at_x = step.side_by_side(
            y, step.previous, displaced(step, epsilon)
        )
        mixed = linear(
            1.0 - self.interpolation,
            at_x.gradients,
            self.interpolation,
            at_y.gradients,
        )
        # The batch before may be what ended an earlier training. (An overflow
        # of the gradient alone is left for a loss scale to notice.)
        is_alone = ops.logical_or(
            is_first, ops.logical_not(ops.all(ops.isfinite(at_x.loss)))
        )
        return Update(
            gradients=choose(is_alone, at_y.gradients, mixed),
            state={"gradient": overlay(at_y_before, at_y.gradients)},
            views=(
                Views(
                    restrict(epsilon, step.selected),
                    at_y_before,
                    at_x.gradients,
                ),
            ),
        )

    def rest(self, step):
        """A plain step, which is also where the recursion starts again."""
        plain = step.gradients(at=step.values, wrt=step.weights, dense=True)
        old = step.state["gradient"]
        return Update(
            gradients=plain.gradients,
            state={"gradient": overlay(old, plain.gradients)},
        )
