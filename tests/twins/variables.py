"""A method that trains some variables at a time."""

import numpy as np

from tests.twins.gradients import SAM, logs
from tests.twins.vectors import norm, ratio


class SLSAM(SAM):
    """SAM on the variables of S whose draw is below their probability.

    The others keep value and momentum. The probabilities start at `share` and
    rise where the gradient is large for its probability.
    """

    def __init__(self, rho=0.01, share=0.2):
        super().__init__(rho)
        self.share = share

    def step(self, bench, batch):
        """Two passes and an update of the active variables."""
        chosen = np.asarray(bench.chosen)
        uniform = bench.draws.uniform((len(bench.variables),))
        start = np.full(len(bench.variables), self.share)
        shares = bench.memory.get("shares", start)
        active = chosen & (uniform < shares)
        clean = bench.evaluate(batch)
        first = np.where(bench.spread(active), clean.gradient, 0.0)
        epsilon = self.perturbation(bench, first)
        sharp = bench.evaluate(batch, epsilon)
        norms = np.array([norm(part.ravel()) for part in bench.split(first)])
        shares = shares.copy()
        shares[chosen] = self.next_shares(
            shares[chosen], norms[chosen], active[chosen]
        )
        bench.memory["shares"] = shares
        self.update(bench, sharp.gradient, clean, chosen & ~active)
        return logs(bench, clean, sharp)

    def next_shares(self, shares, norms, active):
        """p <- p exp(-1e-3 h / p), h = max_j (n_j / p_j)^2 - (n / p)^2.

        Then scaled to the sum share x count.
        """
        if not active.any():
            return shares
        squares = (norms / shares) ** 2
        gaps = squares[active].max() - squares
        moved = shares * np.exp(-1e-3 * gaps / shares)
        return scaled(np.where(active, moved, shares), self.share)

    def update(self, bench, gradient, counted, inactive):
        """The optimizer's step, undone on the inactive variables."""
        kept = [
            (slot, slot.numpy().copy())
            for index in np.flatnonzero(inactive)
            for slot in slots(bench, index)
        ]
        gradient = np.where(bench.spread(inactive), 0.0, gradient)
        bench.update(gradient, counted=counted)
        for slot, value in kept:
            slot.assign(value)


def scaled(shares, share):
    """Sum share x count, none above 1, clipped to [1e-8, 1]."""
    total = share * len(shares)
    shares = shares * (total / shares.sum())
    capped = np.zeros(len(shares), bool)
    while (shares > 1.0).any():
        capped |= shares >= 1.0
        shares[capped] = 1.0
        rest = shares[~capped].sum()
        shares[~capped] *= ratio(total - capped.sum(), rest)
    return np.clip(shares, 1e-8, 1.0)


def slots(bench, index):
    """A variable and what the optimizer keeps for it."""
    variable = bench.variables[index]
    lists = [
        group
        for group in vars(bench.optimizer).values()
        if isinstance(group, list) and len(group) == len(bench.variables)
    ]
    # A list of other things may have the same length.
    kept = [
        group[index]
        for group in lists
        if getattr(group[index], "shape", None) == variable.shape
    ]
    return [variable, *kept]
