"""KSAM and AUSAM: sharpness-aware steps on a part of the batch."""

import numpy as np
from keras import ops, tree

from keras_lwsam import _arguments
from keras_lwsam._tensors import global_norm, ratio, restrict
from keras_lwsam.methods import _samples
from keras_lwsam.methods.base import (
    TwoGradientMethod,
    Update,
    displaced,
    register,
    seen,
)
from keras_lwsam.perturbations import along_gradient

# Training examples are told apart by a hash into a table of this size.
_TABLE = 2**16


@register
class KSAM(TwoGradientMethod):
    r"""SAM on the k samples of the batch that have the largest loss.

    One forward pass ranks the samples; both gradients are those of the mean
    loss of the k highest.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`.
        k: Number of samples, a positive int, or their share of the batch, a
            float in (0, 1]: max(1, int(k n)) of n. Defaults to `0.5`; the
            whole batch is SAM.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; while training, if a batch
            has fewer samples than `k`, or if the loss has no value for each
            sample.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.KSAM(k=32)
    KSAM(rho=0.05, k=32)

    References:
        Ni, Chiang, Geiping, Goldblum, Wilson, Goldstein: K-SAM:
        Sharpness-Aware Minimization at the Speed of SGD, arXiv:2210.12864.
    """

    is_plain = False

    def __init__(self, rho=0.05, k: float | int = 0.5):
        super().__init__(rho)
        self.k = _arguments.share_or_count("k", k)

    def update(self, step):
        if _samples.is_whole(self.k):
            return super().update(step)
        whole = step.gradients(at=step.values, wrt=(), sample_losses=True)
        losses = step.pooled(whole.sample_losses)
        count = _samples.count_of(step, _samples.size(losses), "k", self.k)
        return super().update(step.sharing(_samples.largest(losses, count)))


@register
class AUSAM(TwoGradientMethod):
    r"""SAM on a sample of the batch, drawn by how much a perturbation hurt.

    For every training example there is a running mean of
    $|l(w + \epsilon) - l(w)|$ from the steps that used it; a share of the
    batch is drawn without replacement, with probabilities proportional to it,
    and both gradients are those of the mean loss of that share. An example
    that was never used counts with the mean of those in its batch that were.

    Examples are told apart by what they contain: their inputs, rounded to
    1/1024, are hashed into a table of 65536 means. So the same example must
    come with the same inputs (random augmentation before the model makes it
    another one, layers of augmentation in the model do not), and in much
    larger data sets examples share a mean.

    Args:
        rho: Radius of the perturbation, a float >= 0 or a schedule. Defaults
            to `0.05`.
        share: Share of the batch, a float in (0, 1]: max(1, int(share n)) of
            n. Defaults to `0.5`; `1` is SAM.

    Raises:
        TypeError: If an argument is not a real number.
        ValueError: If an argument is out of range; while training, if the
            inputs are not numbers or the loss has no value for each sample.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.AUSAM(share=0.7)
    AUSAM(rho=0.05, share=0.7)

    References:
        Deng, Pang, Zhang: Asymptotic Unbiased Sample Sampling to Speed Up
        Sharpness-Aware Minimization, AAAI 2025, arXiv:2406.08001; this is a
        reconstruction from secondary sources.
    """

    is_plain = False

    def __init__(self, rho=0.05, share: float = 0.5):
        super().__init__(rho)
        self.share = _arguments.share("share", share)

    def initial_state(self, weights):
        return {
            "totals": np.zeros((_TABLE,), "float32"),
            "counts": np.zeros((_TABLE,), "float32"),
        }

    def means(self, state, examples):
        """The running mean of each example of the batch, made positive."""
        totals = ops.take(state["totals"], examples)
        counts = ops.take(state["counts"], examples)
        known = counts > 0.0
        means = ratio(totals, counts)
        number = ops.sum(ops.cast(known, "float32"))
        typical = ratio(ops.sum(ops.where(known, means, 0.0)), number)
        typical = ops.where(typical > 0.0, typical, 1.0)
        return ops.maximum(ops.where(known, means, typical), 1e-12)

    def update(self, step):
        if _samples.is_whole(self.share):
            return super().update(step)
        weights = self.means(step.state, step.pooled(identify(step.batch[0])))
        count = _samples.share_of(_samples.size(weights), self.share)
        chosen = _samples.drawn(weights, count, step.seed())
        step.gradients(at=step.values, wrt=())
        part = step.sharing(chosen)
        clean = part.gradients(
            at=step.values, wrt=step.ascent, sample_losses=True
        )
        epsilon = along_gradient(clean.gradients, step.radius(self.rho))
        sharp = part.gradients(
            at=displaced(step, epsilon), wrt=step.weights, sample_losses=True
        )
        rises = ops.abs(sharp.sample_losses - clean.sample_losses)
        used = step.pooled(identify(part.batch[0]))
        ones = part.presence * ops.ones_like(rises)
        return Update(
            gradients=sharp.gradients,
            state={
                "totals": added(
                    step.state["totals"], used, step.pooled(ones * rises)
                ),
                "counts": added(step.state["counts"], used, step.pooled(ones)),
            },
            sharpness=sharp.loss - clean.loss,
            gradient_norm=global_norm(restrict(clean.gradients, step.selected)),
            views=seen(step, epsilon, clean, sharp),
        )


def added(table, positions, values):
    """The table with values added at positions, which may repeat."""
    return table + ops.segment_sum(values, positions, num_segments=_TABLE)


def identify(inputs):
    """Vector of positions in the table, from what each example contains.

    Integer arithmetic that wraps around: the order of the sum, and so the
    device, does not matter.
    """
    total = 0
    for position, part in enumerate(tree.flatten(inputs)):
        if part is None:
            continue
        if ops.dtype(part) == "string":
            raise ValueError(
                "AUSAM tells examples apart by their numbers. Preprocess "
                "strings before the model. Received: an input of strings"
            )
        numbers = ops.cast(ops.round(ops.cast(part, "float32") * 1024), "int32")
        numbers = ops.reshape(numbers, (ops.shape(numbers)[0], -1))
        places = ops.arange(ops.shape(numbers)[1], dtype="int32")
        # Odd multipliers that differ from place to place.
        factors = (places * 40503 + 30011 * position + 12345) * 69069 * 2 + 1
        total = total + ops.sum(numbers * factors, axis=1)
    total = ops.bitwise_xor(total, ops.right_shift(total, 15))
    return ops.bitwise_and(total * 69069, _TABLE - 1)
