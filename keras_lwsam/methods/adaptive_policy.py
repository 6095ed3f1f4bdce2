"""AESAM and AELookSAM: sharpness-aware steps only where gradients are large."""

import math

import numpy as np
from keras import ops

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import (
    choose,
    global_norm,
    overlay,
    restrict,
    scale,
    zeros_like,
)
from keras_lwsam.methods.base import (
    Method,
    Update,
    Views,
    displaced,
    register,
    seen,
)
from keras_lwsam.methods.look_sam import along_kept, kept_part
from keras_lwsam.perturbations import along_gradient


@register
class AESAM(Method):
    r"""SAM in the steps of large gradients, the base optimizer in the others.

    With moving averages of the squared gradient norm and of its variance,

    $$ \mu \leftarrow \delta \mu + (1 - \delta) \lVert g \rVert_2^2, \qquad
       s^2 \leftarrow \delta s^2
           + (1 - \delta) (\lVert g \rVert_2^2 - \mu)^2, $$

    the step is SAM's if $\lVert g \rVert_2^2 \ge \mu + c_t s$, where c_t goes
    from `lambda2` to `lambda1` linearly over the training. Norms are over the
    selected weights. The average starts at the first value.

    Outside `fit`, where the length of the training is not known, c_t stays at
    `lambda2`. The clean gradient is that of all weights, for a step that ends
    with it; so selecting few layers saves nothing in a perturbed step.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        lambda1: Threshold at the end, a float; `-inf` for both is SAM, `inf`
            for both the base optimizer. Defaults to `-1.0`.
        lambda2: Threshold at the beginning. Defaults to `1.0`.
        decay: The decay of the averages, a float in [0, 1]. Defaults to `0.9`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.AESAM()
    AESAM(rho=0.05, lambda1=-1.0, lambda2=1.0, decay=0.9)

    References:
        Jiang, Yang, Zhang, Kwok: An Adaptive Policy to Employ Sharpness-Aware
        Minimization, ICLR 2023, arXiv:2304.14647.
    """

    def __init__(
        self,
        rho=0.05,
        lambda1: float = -1.0,
        lambda2: float = 1.0,
        decay: float = 0.9,
    ):
        self.rho = schedules.check_rho("rho", rho)
        self.lambda1 = _arguments.threshold("lambda1", lambda1)
        self.lambda2 = _arguments.threshold("lambda2", lambda2)
        if self.lambda1 != self.lambda2 and not (
            math.isfinite(self.lambda1) and math.isfinite(self.lambda2)
        ):
            raise ValueError(
                "`lambda1` and `lambda2` must be finite, or the same infinity: "
                "there is no line between them otherwise. "
                f"Received: lambda1={lambda1!r}, lambda2={lambda2!r}"
            )
        self.decay = _arguments.real("decay", decay, 0.0, 1.0)

    @property
    def is_plain(self):
        return schedules.is_zero(self.rho)

    def initial_state(self, weights):
        return {
            name: np.zeros((), "float32")
            for name in ("mean", "variance", "seen")
        }

    def update(self, step):
        clean = step.gradients(at=step.values, wrt=step.weights, dense=True)
        known = restrict(clean.gradients, step.selected)
        climbs, state = self.judge(step, global_norm(known))
        epsilon = along_gradient(
            restrict(clean.gradients, step.ascent), step.radius(self.rho)
        )
        sharp = step.gradients(
            at=displaced(step, epsilon),
            wrt=step.weights,
            when=climbs,
            dense=True,
        )
        otherwise, kept = self.without_climb(
            step, clean.gradients, sharp, climbs
        )
        return Update(
            measured=choose(climbs, sharp.gradients, clean.gradients),
            gradients=choose(climbs, sharp.gradients, otherwise),
            state={**state, **kept},
            sharpness=ops.where(climbs, sharp.loss - clean.loss, 0.0),
            gradient_norm=global_norm(known),
            # In a step without a climb all of it is zero.
            views=tuple(
                Views(*(scale(tensors, climbs) for tensors in view[:3]))
                for view in seen(step, epsilon, clean, sharp)
            ),
        )

    def without_climb(self, step, clean, sharp, climbs):
        """`(gradients, state)` of a step without perturbation."""
        return clean, {}

    def judge(self, step, norm):
        """`(predicate, state)`: whether this step is SAM's."""
        (square,) = step.mean_over_replicas([ops.square(norm)])
        square = ops.cast(square, "float32")
        old = step.state
        is_first = ops.equal(old["seen"], 0.0)
        before = ops.where(is_first, square, old["mean"])
        # The square minus the new mean: exactly 0 in the first step.
        excess = self.decay * (square - before)
        mean = square - excess
        variance = self.decay * old["variance"] + (
            1.0 - self.decay
        ) * ops.square(excess)
        state = {
            "mean": mean,
            "variance": variance,
            "seen": ops.ones_like(old["seen"]),
        }
        if self.lambda1 == self.lambda2:
            threshold = self.lambda1
        else:
            threshold = self.lambda2 + step.progress * (
                self.lambda1 - self.lambda2
            )
        if math.isinf(self.lambda1):
            return ops.convert_to_tensor(self.lambda1 < 0.0), state
        return excess >= threshold * ops.sqrt(variance), state


@register
class AELookSAM(AESAM):
    r"""AESAM that reuses the last sharp direction in its other steps.

    A step whose gradient is not large applies, on S, what LookSAM does between
    its looks:

    $$ g + \alpha \, \frac{\lVert g \rVert_2}{\lVert g_v \rVert_2} \, g_v $$

    with g_v from the last perturbed step.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`; `0` is the base optimizer, bit for bit.
        lambda1: Threshold at the end of the training. Defaults to `-1.0`.
        lambda2: Threshold at its beginning. Defaults to `1.0`.
        decay: The decay of the averages, a float in [0, 1]. Defaults to `0.9`.
        alpha: Length of the kept direction relative to the gradient, a float
            >= 0. Defaults to `0.7`.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.AELookSAM(alpha=0.5).alpha
    0.5

    References:
        Jiang, Yang, Zhang, Kwok: An Adaptive Policy to Employ Sharpness-Aware
        Minimization, ICLR 2023, arXiv:2304.14647.
    """

    def __init__(
        self,
        rho=0.05,
        lambda1: float = -1.0,
        lambda2: float = 1.0,
        decay: float = 0.9,
        alpha: float = 0.7,
    ):
        super().__init__(rho, lambda1, lambda2, decay)
        self.alpha = _arguments.real("alpha", alpha, minimum=0.0)

    def initial_state(self, weights):
        return {**super().initial_state(weights), "kept": zeros_like(weights)}

    def without_climb(self, step, clean, sharp, climbs):
        old = step.state["kept"]
        known = restrict(clean, step.selected)
        new = overlay(old, kept_part(known, sharp.gradients))
        reused = along_kept(known, old, self.alpha)
        return overlay(clean, reused), {"kept": choose(climbs, new, old)}
