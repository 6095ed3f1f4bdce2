"""Sparse SAM: perturbations of which a mask keeps some entries."""

import abc
import math

import numpy as np
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._tensors import (
    choose,
    combine,
    global_norm,
    if_else,
    overlay,
    restrict,
    zeros_like,
)
from keras_lwsam.methods import _masks, _samples
from keras_lwsam.methods.base import TwoGradientMethod, register
from keras_lwsam.perturbations import along_gradient, masked


class _SparseSAM(TwoGradientMethod):
    """SAM under a mask that is renewed now and then."""

    def __init__(self, rho, sparsity, refresh, pattern):
        super().__init__(rho)
        self.sparsity = _arguments.real("sparsity", sparsity, 0.0, 1.0)
        self.refresh = _arguments.refresh(refresh)
        self.pattern = _masks.check_pattern(pattern)

    @property
    def perturbs_all(self):
        """Whether the mask is all ones, for good."""
        return not isinstance(self.pattern, tuple) and self.sparsity == 0.0

    @property
    def is_plain(self):
        perturbs_none = (
            not isinstance(self.pattern, tuple) and self.sparsity == 1.0
        )
        return super().is_plain or perturbs_none

    def phase(self, clock):
        if self.perturbs_all:
            return None
        # Steps that a schedule left without perturbation put off what was due.
        if clock.since_selection <= clock.idle:
            return "first"
        if self.refresh is None:
            return "keep"
        if self.refresh == "epoch":
            is_due = clock.step_of_epoch <= clock.idle
        else:
            latest = clock.step - clock.idle - 1
            is_due = clock.step // self.refresh > latest // self.refresh
        return "refresh" if is_due else "keep"

    def initial_state(self, weights):
        return () if self.perturbs_all else {"masks": zeros_like(weights)}

    @abc.abstractmethod
    def mask(self, step, gradients):
        """The mask of this step."""

    def perturb(self, step, gradients):
        rho = step.radius(self.rho)
        if self.perturbs_all:
            return along_gradient(gradients, rho), step.state
        mask = self.mask(step, gradients)
        state = {"masks": overlay(step.state["masks"], mask)}
        return masked(gradients, mask, rho), state


@register
class FisherSparseSAM(_SparseSAM):
    r"""SAM on the entries of the largest Fisher information.

    $$ \epsilon = m \odot \rho \, \frac{g}{\lVert g \rVert_2 + 10^{-7}},
       \qquad
       F = \sum_i (\nabla l_i(w))^2 $$

    with the sum over single samples and their true labels, without
    regularization, in inference mode. The mask m keeps the share
    1 - `sparsity` of the entries of S with the largest F. It is zero at the
    very first step, and measured after the update of the first batch of each
    refresh, at the new weights; and also when other layers were selected, which
    are not perturbed until then. A measurement in a step that overflows (in
    float16) is lost until the next one.

    Args:
        rho: Largest length of the perturbation, a float >= 0 or a schedule.
            Defaults to `0.1`; `0` is the base optimizer, bit for bit.
        sparsity: Share of the entries that are not perturbed, a float in
            [0, 1]. Defaults to `0.5`; `0` is SAM, `1` the base optimizer.
        num_samples: Number of samples in F, a positive int: the first of the
            batch at hand, or of `samples`. Defaults to `16`.
        refresh: When the mask is measured: `"epoch"`, at the first batch of
            each; a number of steps; `None`, once. Defaults to `"epoch"`.
        pattern: `"unstructured"`: single entries. `"structured"`: whole
            variables in descending order of their mean F, until the share is
            reached. A pair `(n, m)`: the n largest of each m consecutive
            entries of a kernel, as an (output, input) matrix; 1-D variables
            whole; `sparsity` does not count. Defaults to `"unstructured"`.
        samples: `(x, y)`, arrays of samples to take F of; `None`: the batch at
            hand. They are saved with the method. Defaults to `None`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; while training, if there
            are fewer samples than `num_samples`.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.FisherSparseSAM(pattern=(2, 4)).pattern
    (2, 4)

    References:
        Mi, Shen, Ren, Zhou, Sun, Ji, Tao: Make Sharpness-Aware Minimization
        Stronger: A Sparsified Perturbation Approach, NeurIPS 2022,
        arXiv:2210.05177. Systematic Investigation of Sparse Perturbed
        Sharpness-Aware Minimization Optimizer, arXiv:2306.17504.
    """

    def __init__(
        self,
        rho=0.1,
        sparsity: float = 0.5,
        num_samples: int = 16,
        refresh: str | int | None = "epoch",
        pattern: str | tuple[int, int] = "unstructured",
        samples=None,
    ):
        super().__init__(rho, sparsity, refresh, pattern)
        self.num_samples = _arguments.count("num_samples", num_samples)
        self.samples = _check_samples(samples, self.num_samples)

    def mask(self, step, gradients):
        masks = step.state["masks"]
        if step.phase == "first":
            return [ops.zeros_like(mask) for mask in masks]
        return masks

    def afterwards(self, step, clean):
        if step.phase not in ("first", "refresh"):
            return None
        self.count(self.source(step))
        return self.measure

    def source(self, step):
        """The step on the samples that are measured."""
        if self.samples is None:
            return step.whole
        return step.on((*self.samples, None))

    def count(self, step):
        """How many of them; an error if there are too few."""
        return _samples.count_of(
            step, step.batch_size, "num_samples", self.num_samples
        )

    def measure(self, step):
        """The state with the mask at the updated weights."""
        step = self.source(step)

        def add(index, information):
            single = step.taking(ops.reshape(index, (1,))).gradients(
                at=step.values,
                wrt=step.selected,
                training=False,
                regularized=False,
                local=True,
            )
            more = combine(
                lambda total, g: total + ops.square(g),
                information,
                single.gradients,
            )
            return overlay(information, more)

        nothing = restrict(
            [ops.zeros_like(m) for m in step.state["masks"]], step.selected
        )
        information = step.repeat(self.count(step), add, nothing)
        information = step.mean_over_replicas(information)
        masks = _masks.largest(information, 1.0 - self.sparsity, self.pattern)
        # Single samples may overflow where the batch did not.
        is_finite = ops.isfinite(global_norm(information))
        old = step.state["masks"]
        return {"masks": choose(is_finite, overlay(old, masks), old)}


@register
class DynamicSparseSAM(_SparseSAM):
    r"""SAM on a mask that trains along: entries are dropped and regrown.

    $$ \epsilon = m \odot \rho \, \frac{g}{\lVert g \rVert_2 + 10^{-7}} $$

    The mask m starts random, and again when other layers are selected. At the
    first batch of each refresh, the first epoch included, the step perturbs
    with the old mask; then the share

    $$ r = \tfrac{1}{2} \, drop\_rate \, (1 + \cos(\pi e / E)) $$

    of the live entries, those of the smallest |g|, is dropped and as many that
    were dead are grown at random, with epoch e of E (outside `fit` e = 0).
    The number of live entries stays, so no more are dropped than are dead.

    Args:
        rho: Largest length of the perturbation, a float >= 0 or a schedule.
            Defaults to `0.1`; `0` is the base optimizer, bit for bit.
        sparsity: Share of the entries that are not perturbed, a float in
            [0, 1]. Defaults to `0.5`; `0` is SAM, `1` the base optimizer.
        drop_rate: Share of the live entries that is exchanged at first, a
            float in [0, 1]. Defaults to `0.5`.
        refresh: When entries are exchanged: `"epoch"`, at the first batch of
            each; a number of steps; `None`, never. Defaults to `"epoch"`.
        pattern: `"unstructured"`: single entries. `"structured"`: whole
            variables, by their mean |g|. A pair `(n, m)`: n of each m
            consecutive entries of a kernel, as an (output, input) matrix; 1-D
            variables whole; `sparsity` does not count. Defaults to
            `"unstructured"`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.DynamicSparseSAM(sparsity=0.8).sparsity
    0.8

    References:
        Mi, Shen, Ren, Zhou, Sun, Ji, Tao: Make Sharpness-Aware Minimization
        Stronger: A Sparsified Perturbation Approach, NeurIPS 2022,
        arXiv:2210.05177. Systematic Investigation of Sparse Perturbed
        Sharpness-Aware Minimization Optimizer, arXiv:2306.17504.
    """

    def __init__(
        self,
        rho=0.1,
        sparsity: float = 0.5,
        drop_rate: float = 0.5,
        refresh: str | int | None = "epoch",
        pattern: str | tuple[int, int] = "unstructured",
    ):
        super().__init__(rho, sparsity, refresh, pattern)
        self.drop_rate = _arguments.real("drop_rate", drop_rate, 0.0, 1.0)

    @property
    def kept(self):
        """Share of the entries that live."""
        return 1.0 - self.sparsity

    def mask(self, step, gradients):
        old = combine(
            lambda mask, _: mask,
            restrict(step.state["masks"], step.selected),
            restrict(gradients, step.selected),
        )
        seed = step.seed()

        def new():
            masks = _masks.at_random(old, self.kept, self.pattern, seed)
            return combine(lambda o, m: ops.cast(m, o.dtype), old, masks)

        if step.phase == "first":
            return new()
        # An overflow may have taken the first mask away.
        return if_else(ops.equal(global_norm(old), 0.0), new, lambda: old)

    def afterwards(self, step, clean):
        if step.phase == "keep":
            return None

        def exchange(later):
            sizes = later.mean_over_replicas(combine(ops.abs, clean))
            masks = later.state["masks"]
            now = combine(lambda mask, _: mask, masks, sizes)
            wave = ops.cos(math.pi * ops.cast(later.epoch_progress, "float32"))
            new = _masks.regrown(
                now,
                sizes,
                self.drop_rate * (1.0 + wave) / 2.0,
                self.kept,
                self.pattern,
                later.seed(),
            )
            return {"masks": overlay(masks, new)}

        return exchange


def _check_samples(samples, count):
    if samples is None:
        return None
    if not isinstance(samples, (tuple, list)) or len(samples) != 2:
        raise ValueError(
            "`samples` must be a pair (x, y) of arrays. "
            f"Received: samples={samples!r}"
        )
    samples = tuple(np.asarray(array) for array in samples)
    if min(map(len, samples)) < count or len({len(a) for a in samples}) > 1:
        raise ValueError(
            f"`samples` must be two arrays of the same, at least "
            f"`num_samples`={count}, samples. "
            f"Received: arrays of the shapes {[a.shape for a in samples]}"
        )
    return tuple(array[:count] for array in samples)
