"""Selections by position, or by chance, whatever the gradients."""

import dataclasses
import numbers

import numpy as np

from keras_lwsam import _arguments
from keras_lwsam.selection.base import (
    Counted,
    Selection,
    serializable,
)


@serializable
@dataclasses.dataclass(frozen=True)
class All(Selection):
    """Every layer: sharpness-aware minimization of the whole network.

    >>> from keras_lwsam import selection
    >>> selection.All()
    All()
    """

    def resolve(self, layers, observations=None):
        return tuple(range(len(layers)))


@serializable
@dataclasses.dataclass(frozen=True)
class OutputSide(Counted):
    """The layers nearest to the output. The cheapest way to perturb so many.

    Args:
        num_layers: Their number, an int; or a float in (0, 1], their share.

    >>> from keras_lwsam import selection
    >>> selection.OutputSide(2)
    OutputSide(num_layers=2)
    """

    def resolve(self, layers, observations=None):
        return tuple(range(len(layers) - self.count(layers), len(layers)))


@serializable
@dataclasses.dataclass(frozen=True)
class InputSide(Counted):
    """The layers nearest to the input.

    Args:
        num_layers: Their number, an int; or a float in (0, 1], their share.

    >>> from keras_lwsam import selection
    >>> selection.InputSide(0.25)
    InputSide(num_layers=0.25)
    """

    def resolve(self, layers, observations=None):
        return tuple(range(self.count(layers)))


@serializable
@dataclasses.dataclass(frozen=True)
class Random(Counted):
    """Layers drawn at random: a control for experiments.

    Args:
        num_layers: Their number, an int; or a float in (0, 1], their share.
        refresh: When to draw again: `"epoch"`, a number of steps, or `None`
            (never). Defaults to `"epoch"`.
        seed: Integer; the n-th draw depends on it and on n alone.

    >>> from keras_lwsam import selection
    >>> selection.Random(3, seed=7)
    Random(num_layers=3, refresh='epoch', seed=7)
    """

    refresh: str | int | None = "epoch"
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "refresh", _arguments.refresh(self.refresh))
        is_integer = isinstance(self.seed, numbers.Integral)
        if isinstance(self.seed, bool) or not is_integer or self.seed < 0:
            raise ValueError(
                "`seed` must be a non-negative integer. "
                f"Received: seed={self.seed!r}"
            )
        object.__setattr__(self, "seed", int(self.seed))

    def resolve(self, layers, observations=None):
        draw = observations.refreshes if observations else 0
        generator = np.random.default_rng([self.seed, draw])
        chosen = generator.choice(len(layers), self.count(layers), False)
        return tuple(sorted(int(i) for i in chosen))
