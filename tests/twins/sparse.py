"""SAM whose perturbation is masked."""

import numpy as np

from tests.twins.gradients import TwoGradients, logs
from tests.twins.vectors import norm


class MaskedSAM(TwoGradients):
    """eps = mask rho g / (norm(g) + 1e-7); the norm is before masking."""

    def perturbation(self, bench, clean):
        """The mask has an entry per weight and is zero outside S."""
        measured = (
            clean if bench.measured_everywhere else bench.on_selected(clean)
        )
        scale = self.rho / (norm(measured) + 1e-7)
        return scale * np.where(bench.memory["mask"], clean, 0.0)


class FisherSparseSAM(MaskedSAM):
    """The mask is where the Fisher information is largest.

    F is the sum over single samples of the squared gradient of the loss. It is
    measured after the update of the steps `refresh_steps`; the mask is zero
    before, or one where nothing is to be sparse.

    Args:
        refresh: Not looked at; `refresh_steps` says when.
        refresh_steps: Numbers of steps.
        samples: `(x, y)`, of which the first `num_samples` are measured.
            Defaults to `None`: the batch at hand.
    """

    def __init__(
        self,
        rho=0.1,
        sparsity=0.5,
        num_samples=16,
        refresh="epoch",
        pattern="unstructured",
        *,
        refresh_steps=(0,),
        samples=None,
    ):
        super().__init__(rho)
        self.sparsity = sparsity
        self.num_samples = num_samples
        self.pattern = pattern
        self.refresh_steps = refresh_steps
        self.samples = samples

    def step(self, bench, batch):
        """Two passes, an update, and on some steps a new mask."""
        clean = bench.evaluate(batch)
        # With nothing to leave out the first step needs no measurement.
        everything = bench.selected & (self.sparsity == 0.0)
        bench.memory.setdefault("mask", everything)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        bench.update(sharp.gradient, counted=clean)
        if bench.step_number in self.refresh_steps and self.sparsity > 0.0:
            bench.snapshot()
            information = self.information(bench, batch)
            bench.memory["mask"] = largest_by(
                self.pattern, bench, information, self.sparsity
            )
        return logs(bench, clean, sharp)

    def information(self, bench, batch):
        """Squared gradients, one sample at a time, in inference mode."""
        if self.samples is not None:
            batch = type(batch).of(*self.samples)
        number = min(self.num_samples, len(batch))
        gradients = [
            bench.evaluate(
                batch.take([index]), regular=False, training=False
            ).gradient
            for index in range(number)
        ]
        return np.sum(np.square(gradients), axis=0)


class DynamicSparseSAM(MaskedSAM):
    """The mask is random at first; its weakest entries are drawn anew.

    On the steps `refresh_steps`, after the update, a share of the live entries
    with the smallest abs(g) is dropped and as many that were dead before are
    grown at random. The share is drop_rate (1 + cos(pi e / E)) / 2; `progress`
    is a function from the number of the step to e / E.

    Structured: whole variables are dropped, by their mean abs(g), and grown.
    (n, m): the same within each run.
    """

    def __init__(
        self,
        rho=0.1,
        sparsity=0.5,
        drop_rate=0.5,
        refresh="epoch",
        pattern="unstructured",
        *,
        refresh_steps=(0,),
        progress=lambda step_number: 0.0,
    ):
        super().__init__(rho)
        self.sparsity = sparsity
        self.drop_rate = drop_rate
        self.pattern = pattern
        self.refresh_steps = refresh_steps
        self.progress = progress

    def step(self, bench, batch):
        """Two passes, an update, and on some steps another mask."""
        clean = bench.evaluate(batch)
        if "mask" not in bench.memory:
            bench.memory["mask"] = self.random_mask(bench)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        bench.update(sharp.gradient, counted=clean)
        if bench.step_number in self.refresh_steps:
            bench.memory["mask"] = self.moved(bench, np.abs(clean.gradient))
        return logs(bench, clean, sharp)

    def random_mask(self, bench):
        """The smallest draws live."""
        scores = -self.draws(bench)
        return largest_by(self.pattern, bench, scores, self.sparsity)

    def draws(self, bench):
        """A draw for each weight, as the pattern asks for them."""
        draws = np.zeros(len(bench.weights))
        selected = bench.selected
        if self.pattern == "structured":
            each = np.zeros(len(bench.variables))
            each[bench.chosen] = bench.draws.uniform((sum(bench.chosen),))
            draws = bench.spread(each)
        else:
            draws[selected] = bench.draws.uniform((int(selected.sum()),))
        return draws

    def moved(self, bench, sizes):
        """Drops and grows in each group of entries."""
        cosine = np.cos(np.pi * self.progress(bench.step_number))
        share = self.drop_rate * (1.0 + cosine) / 2.0
        # The first draw of a step is that of a first mask, wanted or not.
        bench.draws.calls = 1
        draws = self.draws(bench)
        mask = bench.memory["mask"].copy()
        for group in self.groups(bench):
            moved = exchanged(
                np.array([mask[unit].all() for unit in group], bool),
                np.array([sizes[unit].mean() for unit in group]),
                np.array([draws[unit].mean() for unit in group]),
                share,
            )
            for unit, live in zip(group, moved, strict=True):
                mask[unit] = live
        return mask

    def groups(self, bench):
        """Lists of units; a unit is an array of indices of weights."""
        selected = np.flatnonzero(bench.selected)
        if self.pattern == "unstructured":
            return [selected[:, None]]
        if self.pattern == "structured":
            return [chosen_indices(bench)]
        return [
            run[:, None]
            for indices in chosen_indices(bench, shaped=True)
            if indices.ndim > 1
            for run in runs(indices, self.pattern[1])
        ]


def exchanged(live, sizes, draws, share):
    """The smallest live units dropped, as many dead ones grown."""
    number = min(int(share * live.sum()), int((~live).sum()))
    by_size = np.argsort(np.where(live, sizes, np.inf), kind="stable")
    by_draw = np.argsort(np.where(live, np.inf, draws), kind="stable")
    live = live.copy()
    live[by_size[:number]] = False
    live[by_draw[:number]] = True
    return live


def kept_count(bench, sparsity):
    """int(N (1 - sparsity)), N the number of weights in S."""
    return int(bench.selected.sum() * (1.0 - sparsity))


def largest_weights(bench, scores, sparsity):
    """The largest scores of S live; the earlier of two equal ones."""
    scores = np.where(bench.selected, scores, -np.inf)
    order = np.argsort(-scores, kind="stable")
    mask = np.zeros(len(scores), bool)
    mask[order[: kept_count(bench, sparsity)]] = True
    return mask


def largest_variables(bench, scores, sparsity):
    """Variables by descending mean score until enough weights live."""
    parts = chosen_indices(bench)
    mask = np.zeros(len(scores), bool)
    for part in sorted(parts, key=lambda part: -scores[part].mean()):
        if mask.sum() >= kept_count(bench, sparsity):
            break
        mask[part] = True
    return mask


def largest_by(pattern, bench, scores, sparsity):
    """The mask of the largest scores; all of S without sparsity."""
    if sparsity == 0.0:
        return bench.selected
    if pattern == "unstructured":
        return largest_weights(bench, scores, sparsity)
    if pattern == "structured":
        return largest_variables(bench, scores, sparsity)
    return largest_of_runs(bench, scores, *pattern)


def largest_of_runs(bench, scores, number, length):
    """The largest scores of each run of a kernel live, 1-D variables whole."""
    mask = np.zeros(len(scores), bool)
    for indices in chosen_indices(bench, shaped=True):
        if indices.ndim < 2:
            mask[indices] = True
            continue
        for run in runs(indices, length):
            order = np.argsort(-scores[run], kind="stable")
            mask[run[order[:number]]] = True
    return mask


def runs(indices, length):
    """Runs of the (output, input, ...) matrix; the last may be short."""
    last = indices.ndim - 1
    flat = indices.transpose(last, last - 1, *range(last - 1)).ravel()
    return [flat[i : i + length] for i in range(0, len(flat), length)]


def chosen_indices(bench, shaped=False):
    """For each variable of S, the indices of its weights."""
    parts = bench.split(np.arange(len(bench.weights)))
    pairs = zip(parts, bench.chosen, bench.connected, strict=True)
    chosen = [part for part, chosen, there in pairs if chosen and there]
    return chosen if shaped else [part.ravel() for part in chosen]
