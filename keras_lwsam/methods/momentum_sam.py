"""MomentumSAM and AsyncSAM: perturbations along gradients already paid for."""

import abc

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import linear, overlay, restrict, scale, zeros_like
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import along_gradient


class _Foreseeing(Method):
    """One gradient a step, at a point that earlier steps point to."""

    def __init__(self, rho):
        self.rho = schedules.check_rho("rho", rho)

    @property
    def is_plain(self):
        return schedules.is_zero(self.rho)

    def initial_state(self, weights):
        return {"direction": zeros_like(weights)}

    @abc.abstractmethod
    def direction(self, direction, gradients):
        """The direction of the next step, from this one and its gradient."""

    def update(self, step):
        direction = restrict(step.state["direction"], step.ascent)
        epsilon = along_gradient(direction, step.radius(self.rho))
        return self._descend(step, displaced(step, epsilon))._replace(
            views=seen(step, epsilon)
        )

    def rest(self, step):
        return self._descend(step, step.values)

    def _descend(self, step, at):
        descent = step.gradients(at=at, wrt=step.weights, dense=True)
        old = step.state["direction"]
        new = self.direction(old, descent.gradients)
        return Update(
            gradients=descent.gradients,
            state={"direction": overlay(old, new)},
        )


@register
class MomentumSAM(_Foreseeing):
    r"""Perturbs against the momentum: sharpness-aware at the price of SGD.

    $$ \epsilon = - \rho \, v / \lVert v \rVert_2, \qquad
       \tilde g = \nabla L(w + \epsilon), \qquad
       v \leftarrow \mu v + \tilde g $$

    with the old v in the perturbation; the first step is not perturbed. The
    method keeps v itself, whatever the optimizer: give the optimizer the same
    momentum. One gradient a step, so loss and metrics are those at the
    perturbed weights.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.3`; `0` is the base optimizer, bit for bit.
        momentum: The momentum mu, a float in [0, 1]. Defaults to `0.9`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.MomentumSAM(rho=3.0)
    MomentumSAM(rho=3.0, momentum=0.9)

    References:
        Becker, Altrock, Risse: Momentum-SAM: Sharpness Aware Minimization
        without Computational Overhead, arXiv:2401.12033.
    """

    def __init__(self, rho=0.3, momentum: float = 0.9):
        super().__init__(rho)
        self.momentum = _arguments.real("momentum", momentum, 0.0, 1.0)

    # The direction is -v: that in which the loss rises as seen from behind.
    def direction(self, direction, gradients):
        return linear(self.momentum, direction, -1.0, gradients)


@register
class AsyncSAM(_Foreseeing):
    r"""Perturbs along the gradient of the step before.

    $$ \epsilon_t = \rho \, \tilde g_{t-1} / \lVert \tilde g_{t-1} \rVert_2,
       \qquad \tilde g_t = \nabla L(w_t + \epsilon_t) $$

    The first step is not perturbed. One gradient a step, so loss and metrics
    are those at the perturbed weights.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.

    Raises:
        TypeError: If `rho` is not a real number.
        ValueError: If `rho` is negative.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.AsyncSAM()
    AsyncSAM(rho=0.05)

    References:
        Jo, Lim, Lee: Asynchronous Sharpness-Aware Minimization for Fast and
        Accurate Deep Learning, arXiv:2503.11147. There the ascent gradient is
        computed beside the descent; here the descent gradient serves.
    """

    def __init__(self, rho=0.05):
        super().__init__(rho)

    def direction(self, direction, gradients):
        return scale(gradients, 1.0)
