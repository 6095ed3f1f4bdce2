"""GAM: gradient norm aware minimization."""

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import (
    add,
    global_norm,
    linear,
    overlay,
    restrict,
    subtract,
)
from keras_lwsam.combinations import perpendicular
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import along_gradient


@register
class GAM(Method):
    r"""Descends the largest gradient norm nearby: first-order flatness.

    With $u(v) = v / \lVert v \rVert_2$ and perturbations on S,

    $$ g_0 = \nabla L(w), \quad
       g_1 = \nabla L(w + r' u(g_0)), \quad
       w_2 = w + \rho \, u(g_1 - g_0), $$

    $$ g_2 = \nabla L(w_2), \quad
       g_3 = \nabla L(w_2 + r' u(g_2)), $$

    $$ G = b_1 g_1 + b_3 g_3, \qquad
       G - \gamma \, (g_0 + |b_2| g_2)_{\perp G} \ \text{ on S} $$

    and G elsewhere. With b1 = b3 = 1 the step is about twice as long as a
    gradient: halve the learning rate.

    Args:
        rho: Radius in the direction in which the gradient grows, a float >= 0
            or a schedule. Defaults to `0.2`.
        grad_rho: Radius r' of the ascents, likewise. Defaults to `0.02`.
        b1: Weight of g1, a float. Defaults to `1.0`.
        b2: Weight of g2; its absolute value counts. Defaults to `-1.0`.
        b3: Weight of g3. Defaults to `1.0`.
        gamma: Weight of the perpendicular part, a float >= 0. Defaults to
            `0.03`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.GAM(rho=0.1, b1=0.5, b3=0.5).gamma
    0.03

    References:
        Zhang, Xu, Yu, Zou, Cui: Gradient Norm Aware Minimization Seeks
        First-Order Flatness and Improves Generalization, CVPR 2023,
        arXiv:2303.03108.
    """

    def __init__(
        self,
        rho=0.2,
        grad_rho=0.02,
        b1: float = 1.0,
        b2: float = -1.0,
        b3: float = 1.0,
        gamma: float = 0.03,
    ):
        self.rho = schedules.check_rho("rho", rho)
        self.grad_rho = schedules.check_rho("grad_rho", grad_rho)
        self.b1 = _arguments.real("b1", b1)
        self.b2 = _arguments.real("b2", b2)
        self.b3 = _arguments.real("b3", b3)
        self.gamma = _arguments.real("gamma", gamma, minimum=0.0)

    def update(self, step):
        rho, ascent_rho = step.radius(self.rho), step.radius(self.grad_rho)

        def moved(values, direction, radius):
            epsilon = along_gradient(direction, radius)
            return add(values, restrict(epsilon, step.selected))

        first = step.gradients(at=step.values, wrt=step.ascent)
        g0 = first.gradients
        epsilon = along_gradient(g0, ascent_rho)
        second = step.gradients(
            at=displaced(step, epsilon), wrt=step.weights, dense=True
        )
        g1 = second.gradients
        w2 = moved(step.values, subtract(g1, g0), rho)
        g2 = step.gradients(at=w2, wrt=step.ascent).gradients
        g3 = step.gradients(
            at=moved(w2, g2, ascent_rho), wrt=step.weights, dense=True
        ).gradients
        total = linear(self.b1, g1, self.b3, g3)
        known = restrict(total, step.selected)
        clean = restrict(linear(1.0, g0, abs(self.b2), g2), step.selected)
        beside = perpendicular(clean, known)
        return Update(
            gradients=overlay(total, linear(1.0, known, -self.gamma, beside)),
            state=step.state,
            measured=g3,
            sharpness=second.loss - first.loss,
            gradient_norm=global_norm(restrict(g0, step.selected)),
            views=seen(step, epsilon, first, second),
        )
