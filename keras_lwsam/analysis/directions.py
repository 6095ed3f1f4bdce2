"""Where a loss landscape lies: directions through the space of the weights."""

import abc
from typing import NamedTuple

import keras
import numpy as np

from keras_lwsam import _arguments
from keras_lwsam._tensors import to_float64
from keras_lwsam.analysis.objective import network_of, variables_of

_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


class Frame(NamedTuple):
    """Directions, and what is to be said of them.

    Attributes:
        directions: List of one or two lists of arrays, each with an entry for
            each variable of the objective, `None` for one that does not move.
        ranges: List of `(low, high)`, one a direction: what to look at by
            default.
        labels: List of strings, one a direction.
        name: What kind of landscape it will be.
        path: Array of shape (points, directions): places to be marked.
        path_labels: List of strings, one a point, or empty.
        explained: Share of the variance that each direction holds, or empty.
    """

    directions: list
    ranges: list
    labels: list
    name: str
    path: np.ndarray
    path_labels: list = ()
    explained: list = ()


class Directions(abc.ABC):
    """One or two directions through the present weights of a model."""

    @abc.abstractmethod
    def frame(self, objective) -> Frame:
        """The directions for an `Objective`."""


class RandomDirections(Directions):
    r"""Random directions, normalized filter by filter.

    Each filter of a Gaussian direction is scaled to the norm of that filter
    in the weights,

    $$ d_{i,j} \leftarrow \frac{d_{i,j}}{\lVert d_{i,j} \rVert_2}
       \lVert w_{i,j} \rVert_2 , $$

    so that landscapes of networks whose weights differ in scale can be
    compared. A filter is what makes one output of a kernel: mostly its slice
    along the last axis; that along the last two of a depthwise kernel, and
    along the last but one of a transposed convolution; a row of an embedding.
    Vectors, biases and the weights of normalization layers do not move.

    Args:
        dimensions: `1` or `2`. Defaults to `2`.
        seed: Seed of the directions, a non-negative int. Defaults to `0`.

    Raises:
        TypeError: If an argument is not an int.
        ValueError: If `dimensions` is neither 1 nor 2.

    Example:

    >>> from keras_lwsam import analysis
    >>> analysis.RandomDirections(1, seed=3).seed
    3

    References:
        Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of
        Neural Nets, NeurIPS 2018, arXiv:1712.09913.
    """

    def __init__(self, dimensions: int = 2, seed: int = 0):
        self.dimensions = _arguments.count("dimensions", dimensions)
        if dimensions > 2:
            raise ValueError(
                "`dimensions` must be 1 or 2: a line or a plane. "
                f"Received: dimensions={dimensions!r}"
            )
        self.seed = _arguments.count("seed", seed, minimum=0)

    def frame(self, objective):
        generator = np.random.default_rng(self.seed)
        return Frame(
            directions=[
                _random_direction(objective, generator)
                for _ in range(self.dimensions)
            ],
            ranges=[(-1.0, 1.0)] * self.dimensions,
            labels=[
                f"random direction {i + 1} (filter norms)"
                for i in range(self.dimensions)
            ],
            name="Loss along random directions",
            path=np.zeros((1, self.dimensions)),
            path_labels=["weights"],
        )


def _random_direction(objective, generator):
    direction = []
    moves = {id(v) for v in objective.perturbed}
    for variable, layer in zip(
        objective.variables, objective.layer_of, strict=True
    ):
        if id(variable) not in moves or not _has_filters(layer, variable):
            direction.append(None)
            continue
        value = to_float64(variable.value)
        noise = generator.normal(size=value.shape)
        axes = _axes_of_a_filter(layer, variable)
        length = np.sqrt(np.sum(noise**2, axes, keepdims=True))
        wanted = np.sqrt(np.sum(value**2, axes, keepdims=True))
        direction.append(noise * wanted / length)
    return direction


def _has_filters(layer, variable):
    return (
        len(variable.shape) > 1
        and "bias" not in variable.name
        and not isinstance(layer, _NORMALIZATIONS)
    )


def _axes_of_a_filter(layer, variable):
    axes = range(len(variable.shape))
    if isinstance(layer, keras.layers.Embedding):
        kept = axes[:-1]
    elif isinstance(layer, _TRANSPOSED):
        kept = axes[-2:-1]
    elif isinstance(layer, _DEPTHWISE) or variable.name == "depthwise_kernel":
        kept = axes[-2:]
    else:
        kept = axes[-1:]
    return tuple(axis for axis in axes if axis not in kept)


class LineTo(Directions):
    r"""The straight line from a model's weights to those of another.

    Point a stands for $(1 - a) w + a \, w'$: 0 is the model, 1 the other. By
    default a runs from -0.5 to 1.5. The moving statistics of BatchNorm move
    along; where there are any, a runs from 0 to 1, since a moving variance that
    is extrapolated may become negative, and the loss NaN.

    Args:
        other: A built model with the same weights, or a `LWSAMModel` of one;
            or a list of arrays, as its `get_weights` returns.

    Raises:
        TypeError: If `other` is neither a model nor a list of arrays.
        ValueError: When the landscape is made, if its weights are others.

    Example:

    >>> import keras
    >>> from keras_lwsam import analysis
    >>> other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> analysis.LineTo(other).other is other
    True
    """

    def __init__(self, other):
        if not isinstance(other, keras.Model | list | tuple):
            raise TypeError(
                "`other` must be a keras.Model, or a list of arrays as its "
                f"`get_weights` returns. Received: other={other!r} (of type "
                f"{type(other).__name__})"
            )
        self.other = other

    def frame(self, objective):
        there = arrays_of(objective, self.other)
        here = arrays_of(objective, objective.network)
        # Beyond the ends of the line a variance might become negative.
        statistics_move = any(
            not v.trainable and not np.array_equal(a, b)
            for v, a, b in zip(objective.variables, here, there, strict=True)
        )
        return Frame(
            directions=[
                [b - a for a, b in zip(here, there, strict=True)],
            ],
            ranges=[(0.0, 1.0) if statistics_move else (-0.5, 1.5)],
            labels=["position (0: this, 1: other)"],
            name="Loss on the line between two models",
            path=np.array([[0.0], [1.0]]),
            path_labels=["this model", "other model"],
        )


def arrays_of(objective, model):
    """The values of a model's variables in the order of an objective.

    Args:
        objective: The `Objective`.
        model: A model, or arrays as its `get_weights` returns.
    """
    if isinstance(model, keras.Model):
        variables, _ = variables_of(network_of(model))
        arrays = [to_float64(v.value) for v in variables]
    else:
        arrays = _in_order(objective, model)
    shapes = [array.shape for array in arrays]
    expected = [tuple(v.shape) for v in objective.variables]
    if shapes != expected:
        raise ValueError(
            "The other weights must be those of a model that is built alike. "
            f"Expected the shapes {expected}. Received: {shapes}"
        )
    return arrays


def _in_order(objective, given):
    """What `get_weights` of the network, or of its wrapper, has returned."""
    own = objective.network.weights
    if len(given) < len(own):
        return [np.asarray(array) for array in given]
    # A wrapper has weights of its own before those of the network.
    pairs = zip(own, given[-len(own) :], strict=True)
    arrays = {id(v): np.asarray(array, "float64") for v, array in pairs}
    return [arrays[id(v)] for v in objective.variables]
