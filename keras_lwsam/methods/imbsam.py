"""ImbSAM: sharpness-aware minimization for imbalanced classes."""

import numbers
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_lwsam import _arguments, schedules
from keras_lwsam._tensors import global_norm, linear, restrict
from keras_lwsam.methods import _labels
from keras_lwsam.methods.base import (
    Method,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import along_gradient


@register
class ImbSAM(Method):
    r"""SAM for the rare classes, the base optimizer for the others.

    $$ \nabla L_{head}(w) + \lambda \, \nabla L_{tail}(w + \epsilon), \qquad
       \epsilon = \rho \, \frac{\nabla L_{tail}(w)}
                               {\lVert \nabla L_{tail}(w) \rVert_2} $$

    Each loss is a sum over its own samples divided by the size of the whole
    batch; the tail is made of the classes with fewer than `eta` training
    samples. Regularization is part of the head's loss, once.

    Args:
        class_counts: Number of training samples of each class, a sequence of
            ints. Required.
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`.
        eta: Classes with fewer samples are the tail, a number. Defaults to
            `20`. Without a tail this is the base optimizer, bit for bit.
        tail_weight: The weight lambda of the tail, a float >= 0. Defaults to
            `2.0`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `class_counts` is missing, or an argument is out of
            range; while training, if the labels are not classes, or the loss
            has no value for each sample.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.ImbSAM([500, 120, 15]).tail
    array([False, False,  True])

    References:
        Zhou, Qu, Xu, Shen: ImbSAM: A Closer Look at Sharpness-Aware
        Minimization in Class-Imbalanced Recognition, ICCV 2023,
        arXiv:2308.07815.
    """

    takes_clean_gradient = False

    def __init__(
        self,
        class_counts: Sequence[int] | None = None,
        rho=0.05,
        eta: float = 20,
        tail_weight: float = 2.0,
    ):
        self.class_counts = _counts(class_counts)
        self.rho = schedules.check_rho("rho", rho)
        self.eta = _arguments.real("eta", eta, minimum=0.0)
        self.tail_weight = _arguments.real("tail_weight", tail_weight, 0.0)

    @property
    def tail(self) -> np.ndarray:
        """Which classes are the tail, an array of booleans."""
        return np.array(self.class_counts) < self.eta

    @property
    def is_plain(self):
        return not self.tail.any()

    def update(self, step):
        labels = _labels.class_indices(
            "ImbSAM", step.batch[1], len(self.class_counts)
        )
        step.require(
            ops.all(labels < len(self.class_counts)),
            "A label is not one of the classes that `class_counts` counts. "
            f"Received: class_counts={self.class_counts!r}",
        )
        in_tail = ops.take(
            ops.convert_to_tensor(self.tail.astype("float32")), labels
        )
        step.gradients(at=step.values, wrt=(), sample_losses=True)
        head = step.weighted(1.0 - in_tail)
        tail = step.weighted(in_tail)
        here = head.gradients(at=step.values, wrt=step.weights, dense=True)
        climb = tail.gradients(
            at=step.values, wrt=step.ascent, regularized=False
        )
        epsilon = along_gradient(climb.gradients, step.radius(self.rho))
        sharp = tail.gradients(
            at=displaced(step, epsilon),
            wrt=step.weights,
            dense=True,
            regularized=False,
        )
        return Update(
            gradients=linear(
                1.0, here.gradients, self.tail_weight, sharp.gradients
            ),
            state=step.state,
            sharpness=sharp.loss - climb.loss,
            gradient_norm=global_norm(restrict(climb.gradients, step.selected)),
            views=seen(step, epsilon, climb, sharp),
        )


def _counts(class_counts):
    expected = (
        "`class_counts` must be the number of training samples of each class, "
        "such as [500, 120, 15] or np.bincount(y_train). "
    )
    if class_counts is None:
        raise ValueError(f"{expected}Received: None")
    counts = list(class_counts) if np.ndim(class_counts) == 1 else []
    if not counts or any(
        isinstance(c, bool) or not isinstance(c, numbers.Integral) or c < 0
        for c in counts
    ):
        raise ValueError(f"{expected}Received: {class_counts!r}")
    return [int(c) for c in counts]
