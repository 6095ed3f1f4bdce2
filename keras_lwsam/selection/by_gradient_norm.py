"""Selections by the layers' gradient norms."""

import abc
import dataclasses

import numpy as np

from keras_lwsam import _arguments
from keras_lwsam._layers import gradient_norms, weight_norms
from keras_lwsam.selection.base import Counted, serializable
from keras_lwsam.selection.by_position import OutputSide

# A layer must beat one that is already perturbed by this factor to take its
# place: gradient norms of two epochs differ by some per cent by chance alone,
# and each new set of layers is compiled once.
HYSTERESIS = 1.1


@dataclasses.dataclass(frozen=True)
class _ByGradientNorm(Counted):
    """A selection by the layers' gradient norms."""

    refresh: str | int | None = "epoch"
    normalize: str | None = None

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "refresh", _arguments.refresh(self.refresh))
        _arguments.choice("normalize", self.normalize, (None, "size", "weight"))

    def resolve(self, layers, observations=None):
        count = self.count(layers)
        if not _are_known(observations):
            return OutputSide(count).resolve(layers)
        order = _in_order(
            self._scores(*_norms(layers, observations, self.normalize))
        )
        return tuple(sorted(order[:count]))

    @abc.abstractmethod
    def _scores(self, norms, is_selected):
        """The layers of the largest scores are selected."""


@serializable
@dataclasses.dataclass(frozen=True)
class LargestGradientNorm(_ByGradientNorm):
    r"""The layers of the largest gradient norm: the critical layers.

    Layer l scores $\sqrt{\mathrm{mean}_t \lVert g_l^{(t)} \rVert_2^2}$, the
    root mean square of its gradient norm over the steps since the last
    refresh. A layer that is perturbed already counts 1.1 times, so that two
    layers of nearly the same norm do not change places at every refresh.
    Before the first norms are known the output side is perturbed.

    Args:
        num_layers: Their number, an int; or a float in (0, 1], their share.
        refresh: When to choose again: `"epoch"`, a number of steps, or
            `None` (never). Defaults to `"epoch"`.
        normalize: `None`; `"size"` divides the norm by the square root of the
            layer's number of weights; `"weight"` by its weight norm. Defaults
            to `None`, as in the paper's own code.

    >>> from keras_lwsam import selection
    >>> selection.LargestGradientNorm(3, refresh=500)
    LargestGradientNorm(num_layers=3, refresh=500, normalize=None)

    References:
        Lee: layer-wise gradient norm penalizing, KDD 2024, arXiv:2503.14205.
    """

    def _scores(self, norms, is_selected):
        return _criticality(norms, is_selected)


@serializable
@dataclasses.dataclass(frozen=True)
class SmallestGradientNorm(_ByGradientNorm):
    """The layers of the smallest gradient norm: a control for experiments.

    Args:
        num_layers: Their number, an int; or a float in (0, 1], their share.
        refresh: As for `LargestGradientNorm`.
        normalize: As for `LargestGradientNorm`.

    >>> from keras_lwsam import selection
    >>> selection.SmallestGradientNorm(3)
    SmallestGradientNorm(num_layers=3, refresh='epoch', normalize=None)
    """

    def _scores(self, norms, is_selected):
        return -np.where(is_selected, norms / HYSTERESIS, norms)


def by_criticality(layers, observations, normalize=None) -> list[int]:
    """Positions of all layers, from the most critical to the least.

    Before the first norms are known, from the output side to the input side.
    """
    if not _are_known(observations):
        return list(reversed(range(len(layers))))
    return _in_order(_criticality(*_norms(layers, observations, normalize)))


def _criticality(norms, is_selected):
    return np.where(is_selected, HYSTERESIS * norms, norms)


def _in_order(scores):
    # Of equals, the one nearer to the output is cheaper to perturb.
    return sorted(range(len(scores)), key=lambda i: (-scores[i], -i))


def _are_known(observations):
    return (
        observations is not None
        and observations.squared_gradient_norms is not None
    )


def _norms(layers, observations, normalize):
    """Norms of the layers, and whether each is perturbed already."""
    norms = gradient_norms(layers, observations.squared_gradient_norms)
    if normalize == "size":
        norms = norms / np.sqrt([_size(layer) for layer in layers])
    if normalize == "weight":
        norms = norms / np.maximum(weight_norms(layers), 1e-12)
    selected = np.array([x.path in observations.selected for x in layers], bool)
    return norms, selected


def _size(layer):
    return sum(int(np.prod(weight.shape)) for weight in layer.weights)
