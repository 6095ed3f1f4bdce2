"""SLSAM: layers that take part in a step by chance."""

import keras
import numpy as np
from keras import ops

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import combine, global_norm, restrict, squared_norm
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import along_gradient

# Rate at which the probabilities follow the gradient norms.
_RATE = 1e-3


@register
class SLSAM(Method):
    r"""SAM in which each variable takes part with a probability it earns.

    Variable l of S is active in a step with probability p_l. The perturbation
    is SAM's over the active ones; those that are not active are not updated
    and keep their momentum. With n_l the norm of the first gradient of an
    active variable,

    $$ h_l = \max_j (n_j / p_j)^2 - (n_l / p_l)^2, \qquad
       p_l \leftarrow p_l \, e^{-10^{-3} h_l / p_l}, $$

    then all p are scaled to the sum `share` times their number, none above 1.
    Variables outside S are always updated.

    Which variables are active is known only when a compiled step runs, so the
    step computes the gradients of all.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.01`.
        share: Expected share of active variables, a float in (0, 1]. Defaults
            to `0.2`; `1` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.SLSAM(share=0.5)
    SLSAM(rho=0.01, share=0.5)

    References:
        Huang et al.: Sparse Layer Sharpness-Aware Minimization for Efficient
        Fine-Tuning, arXiv:2602.09395.
    """

    def __init__(self, rho=0.01, share: float = 0.2):
        self.rho = schedules.check_rho("rho", rho)
        self.share = _arguments.share("share", share)

    def initial_state(self, weights):
        return {"probabilities": np.full(len(weights), self.share, "float32")}

    def draw(self, step, probabilities):
        """Vector of booleans: which weights are active in this step."""
        uniform = keras.random.uniform(
            ops.shape(probabilities), seed=step.seed()
        )
        return uniform < probabilities

    def update(self, step):
        probabilities = step.state["probabilities"]
        drawn = self.draw(step, probabilities)
        active = [
            drawn[i] if i in step.selected else None
            for i in range(len(step.values))
        ]

        def only_active(gradients):
            return [
                g
                if g is None or a is None
                else ops.where(a, g, ops.zeros_like(g))
                for g, a in zip(gradients, active, strict=True)
            ]

        clean = step.gradients(at=step.values, wrt=step.ascent)
        kept = combine(lambda g: g, only_active(clean.gradients))
        epsilon = along_gradient(kept, step.radius(self.rho))
        sharp = step.gradients(at=displaced(step, epsilon), wrt=step.weights)
        squares = step.mean_over_replicas(
            [
                ops.zeros((), "float32")
                if g is None
                else ops.cast(squared_norm(g), "float32")
                for g in kept
            ]
        )
        new = adapted(
            probabilities,
            ops.stack(squares),
            drawn,
            np.isin(np.arange(len(active)), step.selected),
            self.share,
        )
        return Update(
            gradients=only_active(sharp.gradients),
            state={"probabilities": new},
            sharpness=sharp.loss - clean.loss,
            gradient_norm=global_norm(restrict(clean.gradients, step.selected)),
            measured=sharp.gradients,
            active=[True if a is None else a for a in active],
            views=seen(step, epsilon, clean, sharp),
        )


def adapted(probabilities, squared_norms, active, pool, share):
    """The probabilities after a step.

    Args:
        probabilities: Vector with an entry a weight.
        squared_norms: Vector of the squared gradient norms.
        active: Vector of booleans, which weights were active.
        pool: Array of booleans, which weights take part at all.
        share: Mean of the probabilities in the pool.
    """
    p = probabilities
    pool_size = int(pool.sum())
    pool = ops.convert_to_tensor(pool)
    active = ops.logical_and(active, pool)
    heights = ops.where(active, squared_norms / ops.square(p), 0.0)
    gaps = ops.max(heights) - heights
    moved = ops.where(active, p * ops.exp(-_RATE * gaps / p), p)
    moved = ops.where(pool, moved, 0.0)
    new = ops.clip(scaled_to(moved, share * pool_size), 1e-8, 1.0)
    return ops.where(pool, new, p)


def scaled_to(positive, total):
    """`min(1, c x)`, with the c that makes the sum `total`."""
    order = -ops.sort(-positive)
    count = order.shape[0]
    capped = ops.arange(count, dtype=positive.dtype)
    # Were the k largest capped, the others would share what is left.
    rest = ops.flip(ops.cumsum(ops.flip(order)))
    factors = (total - capped) / ops.maximum(rest, 1e-30)
    fits = factors * order <= 1.0
    first = ops.argmax(ops.cast(fits, "int32"))
    factor = ops.where(ops.any(fits), ops.take(factors, first), 1e30)
    return ops.minimum(1.0, factor * positive)
