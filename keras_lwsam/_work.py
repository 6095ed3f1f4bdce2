"""The work of a step: pure numbers, by the weights behind them."""

import dataclasses
from collections.abc import Iterable, Mapping

# Stands among the positions of weights for what every second pass computes
# again, whichever weights are perturbed.
REPEATED = -1


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations of a network, by the weights behind them.

    Weights are counted as in `LayerWeights.indices`.

    Args:
        forward: Mapping from a set of weights to the work of the forward
            operations that depend on exactly those.
        backward: Mapping from a set of weights to the work of the backward
            operations that exactly those need.
        trained: The weights that the optimizer trains.

    Example:

    >>> from keras_lwsam import costs
    >>> first, both = frozenset([0]), frozenset([0, 1])
    >>> second = frozenset([1])  # Two layers of equal work.
    >>> work = costs.Work(
    ...     forward={first: 1.0, both: 1.0},
    ...     backward={first: 2.0, second: 1.0},
    ...     trained=both,
    ... )
    >>> work.cost(second), work.cost(both)
    (1.4, 2.0)
    """

    forward: Mapping[frozenset[int], float]
    backward: Mapping[frozenset[int], float]
    trained: frozenset[int]

    @property
    def plain(self) -> float:
        """The work of one step of the base optimizer."""
        everything = sum(self.forward.values())
        return everything + _depending(self.backward, self.trained)

    def cost(
        self, perturbed: Iterable[int], measured: Iterable[int] | None = None
    ) -> float:
        """Cost of a step of two gradients, relative to a plain step.

        Args:
            perturbed: Positions of the perturbed weights.
            measured: Positions of those that the first gradient is needed for.
                Defaults to the perturbed ones.
        """
        moved = self._moved(perturbed)
        if not moved:
            return 1.0
        extra = _depending(self.forward, moved | {REPEATED})
        extra += _depending(
            self.backward, moved if measured is None else frozenset(measured)
        )
        return 1.0 + extra / self.plain

    def timed(self, measured: Iterable[tuple[Iterable[int], float]]) -> "Work":
        """The same work at the speeds that some steps have shown.

        Steps that perturb more and more weights tell how much longer each takes
        than the one before, and so how fast the operations are that it adds.

        Args:
            measured: Pairs of the positions of perturbed weights, each among
                those of the next pair, and the overhead of that step.

        Returns:
            The `Work` of the same plain step, whose `cost` of these weights is
            what was measured. What a step does once, whatever is perturbed, is
            in the entry of no weights.

        Example:

        >>> from keras_lwsam import costs
        >>> first, second = frozenset([0]), frozenset([1])
        >>> both = first | second
        >>> work = costs.Work(
        ...     forward={first: 1.0, both: 1.0},
        ...     backward={first: 2.0, second: 1.0},
        ...     trained=both,
        ... )
        >>> timed = work.timed([(second, 0.3), (both, 0.9)])
        >>> timed.cost(second), timed.cost(both)
        (1.3, 1.9)
        """
        forward, backward = dict(self.forward), dict(self.backward)
        done, taken = frozenset(), 0.0
        for weights, overhead in measured:
            weights = self._moved(weights)
            counted = self.cost(weights) - self.cost(done)
            if counted > 0.0:
                speed = (overhead - taken) / counted
                _scale(forward, weights | {REPEATED}, done, speed)
                _scale(backward, weights, done, speed)
                taken = overhead
                done = weights | {REPEATED}
        found = Work(forward, backward, self.trained)
        once = forward.get(frozenset(), 0.0) + self.plain - found.plain
        return dataclasses.replace(
            found, forward={**forward, frozenset(): once}
        )

    def _moved(self, perturbed):
        """Without the weights that have no gradient: they are not moved."""
        return frozenset(perturbed) & frozenset().union(*self.backward)


def _scale(work, weights, done, speed):
    """Multiplies what is behind some weights, but not behind those done."""
    for key in work:
        if not key.isdisjoint(weights) and key.isdisjoint(done):
            work[key] *= speed


def _depending(work, weights):
    """The work behind which there is any of some weights."""
    return sum(w for key, w in work.items() if not key.isdisjoint(weights))
