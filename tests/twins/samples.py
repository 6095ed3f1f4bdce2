"""Methods that choose samples of the batch."""

import numpy as np

from tests.twins.gradients import SAM, logs
from tests.twins.vectors import norm, ratio


def count(share, batch):
    """max(1, int(share n))."""
    return max(1, int(share * len(batch)))


def largest(values, number):
    """Indices of the largest values; the earlier of two equal ones."""
    return np.argsort(-values, kind="stable")[:number]


class ESAM(SAM):
    """SAM on random variables, descending on the most sensitive samples.

    eps = rho g / (beta norm(g)) on the variables of S with a draw below beta;
    the gradient is that of the samples with the largest l(w + eps) - l(w).
    """

    def __init__(self, rho=0.05, beta=0.6, gamma=0.5):
        super().__init__(rho)
        self.beta = beta
        self.gamma = gamma

    def perturbation(self, bench, clean):
        """Over the variables that are kept."""
        uniform = bench.draws.uniform((len(bench.variables),))
        kept = np.where(bench.spread(uniform < self.beta), clean, 0.0)
        kept = bench.on_selected(kept)
        return self.rho * ratio(1.0, self.beta * norm(kept)) * kept

    def step(self, bench, batch):
        """Two passes on the batch, one on its samples, and an update."""
        clean = bench.evaluate(batch)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        rises = sharp.values - clean.values
        few = batch.take(largest(rises, count(self.gamma, batch)))
        gradient = bench.evaluate(few, epsilon).gradient
        bench.update(gradient, counted=clean)
        return logs(bench, clean, sharp)


class FewSamples(SAM):
    """SAM on some samples, chosen after a clean pass on the whole batch."""

    def step(self, bench, batch):
        """One pass on the batch, two on its samples, and an update."""
        counted = bench.evaluate(batch)
        few = batch.take(self.choice(bench, batch, counted.values))
        clean = bench.evaluate(few)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(few, epsilon)
        self.observe(bench, few, np.abs(sharp.values - clean.values))
        bench.update(sharp.gradient, counted=counted)
        return logs(bench, clean, sharp) | {"loss": counted.loss}

    def observe(self, bench, few, changes):
        """Nothing is remembered."""


class KSAM(FewSamples):
    """SAM on the share k of the batch with the largest loss."""

    def __init__(self, rho=0.05, k=0.5):
        super().__init__(rho)
        self.k = k

    def choice(self, bench, batch, values):
        """Indices of the largest losses."""
        return largest(values, count(self.k, batch))


class AUSAM(FewSamples):
    """SAM on samples drawn by the mean of their abs(l(w + eps) - l(w)).

    A sample is known by its content. The mean is over the steps in which it
    was drawn; one never drawn has the mean of the known ones of the batch, or
    1 if none is known. Drawn without replacement: the largest u^(1 / mean).
    """

    def __init__(self, rho=0.05, share=0.5):
        super().__init__(rho)
        self.share = share

    def choice(self, bench, batch, values):
        """Indices of the samples drawn."""
        seen = [bench.memory.get(key) for key in contents(batch)]
        known = [np.mean(changes) for changes in seen if changes]
        unknown = np.mean(known) if known else 1.0
        means = [np.mean(c) if c else unknown for c in seen]
        tiny = np.finfo("float64").tiny
        uniform = np.float64(bench.draws.uniform((len(batch),)))
        scores = np.log(np.maximum(uniform, tiny)) / np.maximum(means, tiny)
        return largest(scores, count(self.share, batch))

    def observe(self, bench, few, changes):
        """Each sample remembers its changes."""
        for key, change in zip(contents(few), changes, strict=True):
            bench.memory.setdefault(key, []).append(change)


def contents(batch):
    """A key for each sample."""
    return [np.asarray(sample).tobytes() for sample in batch.x]
