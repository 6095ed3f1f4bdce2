"""A selection by what a step may cost."""

import dataclasses

import numpy as np

from keras_lwsam import _arguments
from keras_lwsam.selection.base import (
    Selection,
    check_number,
    number_of,
    serializable,
)
from keras_lwsam.selection.by_gradient_norm import by_criticality

# What rounding adds to a sum of operations.
_ROUNDING = 1e-9


@serializable
@dataclasses.dataclass(frozen=True)
class WithinBudget(Selection):
    r"""The critical layers that a step has time for, as `layers="15%"` says.

    A step of two gradients that perturbs the layers S takes 1 + o(S) times the
    work of a step of the base optimizer. Layers are gone through from the
    largest gradient norm (see `LargestGradientNorm`) to the smallest, and each
    joins S if afterwards still

    $$ o(S) \le \mathrm{overhead} $$

    So a layer near the input, whose perturbation costs a second pass through
    all that follows, is passed over where the budget does not reach so far. The
    work is counted on the network itself, as `LWSAMModel.cost` shows it; before
    the first norms are known, layers are taken from the output side. It is that
    of a batch of 32 samples, open dimensions such as the length of a text being
    128; after `model.cost(batch)`, that of this batch. Methods that evaluate
    more or fewer gradients, schedules and splits of the batch have other
    prices, which are not counted.

    Args:
        overhead: How much slower a step may get, a float > 0: `0.15` allows
            1.15 times the work of a step of the base optimizer.
        num_layers: At most so many layers, an int; or a float in (0, 1], their
            share. Defaults to `None`: as many as the budget allows.
        refresh: When to choose again: `"epoch"`, a number of steps, or `None`
            (never). Defaults to `"epoch"`.
        normalize: As for `LargestGradientNorm`.
        timed: Whether a short measurement of steps on this machine corrects
            what the operations say, once the model is compiled; see
            `LWSAMModel.cost`. Two runs may then choose other layers. Defaults
            to `False`.

    >>> from keras_lwsam import selection
    >>> selection.get("15%")
    WithinBudget(overhead=0.15)
    """

    overhead: float
    num_layers: int | float | None = None
    refresh: str | int | None = "epoch"
    normalize: str | None = None
    timed: bool = False

    def __post_init__(self):
        overhead = _arguments.positive("overhead", self.overhead)
        object.__setattr__(self, "overhead", overhead)
        if self.num_layers is not None:
            number = check_number("num_layers", self.num_layers, minimum=1)
            object.__setattr__(self, "num_layers", number)
        object.__setattr__(self, "refresh", _arguments.refresh(self.refresh))
        _arguments.choice("normalize", self.normalize, (None, "size", "weight"))
        _arguments.boolean("timed", self.timed)

    def __repr__(self):
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"WithinBudget({', '.join(changed)})"

    def resolve(self, layers, observations=None):
        if observations is None or observations.price is None:
            raise ValueError(
                "`WithinBudget` goes by the price of each layer, and none are "
                "known. Give it to an `LWSAMModel`, or give `Observations` "
                f"with a `price`. Received: observations={observations!r}"
            )
        count = len(layers)
        if self.num_layers is not None:
            count = number_of(self.num_layers, layers)
        chosen, weights = [], []
        for i in by_criticality(layers, observations, self.normalize):
            if len(chosen) == count:
                break
            joined = [*weights, *layers[i].indices]
            price = observations.price(joined, timed=self.timed)
            if price - 1.0 <= self.overhead + _ROUNDING:
                chosen.append(i)
                weights = joined
        return tuple(sorted(chosen)) or self._cheapest(layers, observations)

    def _cheapest(self, layers, observations):
        """Where nothing fits; training that has begun goes on with it."""
        prices = [
            observations.price(layer.indices, timed=self.timed)
            for layer in layers
        ]
        cheapest = int(np.argmin(prices))
        if observations.refreshes:
            return (cheapest,)
        raise ValueError(
            "`overhead` is too small to perturb any layer. The cheapest is "
            f"{layers[cheapest].path!r}, whose overhead is "
            f"{prices[cheapest] - 1.0:.3g}; allow at least that. "
            f"Received: overhead={self.overhead!r}"
        )
