"""FriendlySAM and VaSSO: perturbations along averages of gradients."""

import numpy as np
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import (
    combine,
    linear,
    overlay,
    restrict,
    zeros_like,
)
from keras_lwsam.methods.base import TwoGradientMethod, register
from keras_lwsam.perturbations import along_gradient


@register
class FriendlySAM(TwoGradientMethod):
    r"""Perturbs along what is particular to the batch.

    $$ d = g - \sigma m, \qquad
       \epsilon = \rho \, d / \lVert d \rVert_2, \qquad
       m \leftarrow \beta m + (1 - \beta) g $$

    with the old m in d. A weight that is perturbed for the first time has
    d = g, and m becomes g.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        sigma: Share of the average gradient that is taken away, a float >= 0.
            Defaults to `1.0`; `0` is SAM.
        decay: The decay beta of the average, a float in [0, 1]. Defaults to
            `0.9`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.FriendlySAM(sigma=0.5)
    FriendlySAM(rho=0.05, sigma=0.5, decay=0.9)

    References:
        Li, Zhou, He, Cheng, Huang: Friendly Sharpness-Aware Minimization,
        CVPR 2024, arXiv:2403.12350.
    """

    def __init__(self, rho=0.05, sigma: float = 1.0, decay: float = 0.9):
        super().__init__(rho)
        self.sigma = _arguments.real("sigma", sigma, minimum=0.0)
        self.decay = _arguments.real("decay", decay, 0.0, 1.0)

    def initial_state(self, weights):
        return average_of(weights)

    def perturb(self, step, gradients):
        old = step.state["mean"]
        special = linear(1.0, gradients, -self.sigma, old)
        direction = first_or(step.state, gradients, special)
        state = averaged(step.state, gradients, self.decay)
        return along_gradient(direction, step.radius(self.rho)), state


@register
class VaSSO(TwoGradientMethod):
    r"""Perturbs along an average of the gradients: a stabler adversary.

    $$ d \leftarrow (1 - \theta) d + \theta g, \qquad
       \epsilon = \rho \, d / \lVert d \rVert_2 $$

    with the new d. A weight that is perturbed for the first time has d = g.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        theta: Weight of the new gradient, a float in [0, 1]. Defaults to
            `0.9`; `1` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.VaSSO(theta=0.4)
    VaSSO(rho=0.05, theta=0.4)

    References:
        Li, Giannakis: Enhancing Sharpness-Aware Optimization Through Variance
        Suppression, NeurIPS 2023, arXiv:2309.15639.
    """

    def __init__(self, rho=0.05, theta: float = 0.9):
        super().__init__(rho)
        self.theta = _arguments.real("theta", theta, 0.0, 1.0)

    def initial_state(self, weights):
        return average_of(weights)

    def perturb(self, step, gradients):
        state = averaged(step.state, gradients, 1.0 - self.theta)
        direction = restrict(state["mean"], step.ascent)
        return along_gradient(direction, step.radius(self.rho)), state


def average_of(weights):
    """The state of averages before the first gradient."""
    return {
        "mean": zeros_like(weights),
        "seen": [np.zeros((), "float32") for _ in weights],
    }


def first_or(state, gradients, others):
    """The gradient of a weight that was not seen before, else the other."""
    return combine(
        lambda seen, g, other: ops.where(seen > 0.0, other, g),
        state["seen"],
        gradients,
        others,
    )


def averaged(state, gradients, decay):
    """The state after gradients: `decay` times the old average and the rest."""
    mean = first_or(
        state, gradients, linear(decay, state["mean"], 1.0 - decay, gradients)
    )
    seen = combine(lambda s, _: ops.ones_like(s), state["seen"], gradients)
    return {
        "mean": overlay(state["mean"], mean),
        "seen": overlay(state["seen"], seen),
    }
