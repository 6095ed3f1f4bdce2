"""AMP: adversarial model perturbation."""

from keras_lwsam import _arguments
from keras_lwsam._tensors import add, global_norm, linear, scale
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import clipped_to_ball


@register
class AMP(Method):
    r"""Gradient ascent within a ball around each variable, then descent.

    $$ \delta \leftarrow \mathrm{clip}_{\lVert \delta \rVert_2 \le \epsilon}
       (\delta + \eta \, \nabla L(w + \delta)), $$

    `inner_iter` times from delta = 0, for each variable of S by itself; the
    step is the gradient at w + delta.

    Args:
        epsilon: Largest norm of the perturbation of a variable, a float >= 0.
            Defaults to `0.5`.
        inner_lr: The rate eta of the ascent, a float >= 0. Defaults to `1.0`.
        inner_iter: Number of steps of ascent, a positive int. Defaults to `1`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.AMP(inner_iter=2)
    AMP(epsilon=0.5, inner_lr=1.0, inner_iter=2)

    References:
        Zheng, Zhang, Mao: Regularizing Neural Networks via Adversarial Model
        Perturbation, CVPR 2021, arXiv:2010.04925.
    """

    def __init__(
        self,
        epsilon: float = 0.5,
        inner_lr: float = 1.0,
        inner_iter: int = 1,
    ):
        self.epsilon = _arguments.real("epsilon", epsilon, minimum=0.0)
        self.inner_lr = _arguments.real("inner_lr", inner_lr, minimum=0.0)
        self.inner_iter = _arguments.count("inner_iter", inner_iter)

    def update(self, step):
        clean = step.gradients(at=step.values, wrt=step.selected)
        delta = self.climbed(scale(clean.gradients, 0.0), clean.gradients)

        def climb(_, delta):
            at = add(step.values, delta)
            higher = step.gradients(at=at, wrt=step.selected)
            return self.climbed(delta, higher.gradients)

        delta = step.repeat(self.inner_iter - 1, climb, delta)
        sharp = step.gradients(at=displaced(step, delta), wrt=step.weights)
        return Update(
            gradients=sharp.gradients,
            state=step.state,
            sharpness=sharp.loss - clean.loss,
            gradient_norm=global_norm(clean.gradients),
            views=seen(step, delta, clean, sharp),
        )

    def climbed(self, delta, gradients):
        """The perturbation after a step of ascent."""
        higher = linear(1.0, delta, self.inner_lr, gradients)
        return clipped_to_ball(higher, self.epsilon)
