"""ESAM: efficient sharpness-aware minimization."""

import keras
from keras import ops

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import (
    combine,
    global_norm,
    ratio,
    restrict,
    scale,
)
from keras_lwsam.methods import _samples
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)


@register
class ESAM(Method):
    r"""SAM on a random part of the weights and the samples that suffer most.

    Each variable of S is kept with probability beta:

    $$ \epsilon = \rho \, \frac{g_{kept}}{\beta \, \lVert g_{kept} \rVert_2} $$

    and the descent is the mean over the top max(1, int(gamma n)) of the n
    samples by the increase of their loss, $l(w + \epsilon) - l(w)$.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`.
        beta: Share of the variables that are perturbed, a float in (0, 1].
            Defaults to `0.6`.
        gamma: Share of the samples that are descended, a float in (0, 1].
            Defaults to `0.5`; `beta = gamma = 1` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range; while training, if the loss
            has no value for each sample.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.ESAM(beta=0.5)
    ESAM(rho=0.05, beta=0.5, gamma=0.5)

    References:
        Du, Yan, Feng, Zhou, Zhen, Goh, Tan: Efficient Sharpness-aware
        Minimization for Improved Training of Neural Networks, ICLR 2022,
        arXiv:2110.03141.
    """

    def __init__(self, rho=0.05, beta: float = 0.6, gamma: float = 0.5):
        self.rho = schedules.check_rho("rho", rho)
        self.beta = _arguments.share("beta", beta)
        self.gamma = _arguments.share("gamma", gamma)

    def update(self, step):
        selects = self.gamma < 1.0
        clean = step.gradients(
            at=step.values, wrt=step.ascent, sample_losses=selects
        )
        epsilon = self.perturb(step, clean.gradients)
        at = displaced(step, epsilon)
        suffering = step
        if selects:
            after = step.gradients(at=at, wrt=(), sample_losses=True)
            increase = step.pooled(after.sample_losses - clean.sample_losses)
            count = _samples.share_of(_samples.size(increase), self.gamma)
            suffering = step.sharing(_samples.largest(increase, count))
        sharp = suffering.gradients(at=at, wrt=step.weights)
        loss = after.loss if selects else sharp.loss
        known = restrict(clean.gradients, step.selected)
        return Update(
            gradients=sharp.gradients,
            state=step.state,
            sharpness=loss - clean.loss,
            gradient_norm=global_norm(known),
            views=seen(step, epsilon, clean, sharp),
        )

    def perturb(self, step, gradients):
        """The perturbation of the variables that chance keeps."""
        if self.beta < 1.0:
            draws = keras.random.uniform((len(gradients),), seed=step.seed())
            gradients = combine(
                lambda g, draw: ops.where(
                    draw < self.beta, g, ops.zeros_like(g)
                ),
                gradients,
                ops.unstack(draws),
            )
        rho = step.radius(self.rho)
        factor = ratio(rho, self.beta * global_norm(gradients))
        return scale(gradients, factor)
