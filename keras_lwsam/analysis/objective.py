"""`Objective`: the loss of a model on given data, as a function of weights."""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_lwsam import _arguments, _checks, _engines, _keras, _layers
from keras_lwsam._tensors import to_float64
from keras_lwsam.analysis.data import batches_of
from keras_lwsam.model import LWSAMModel


class Objective:
    r"""The loss of a model on given data, as a function of its weights.

    $$ L(w) = \frac{1}{n} \sum_b n_b \, L_b(w) $$

    with the loss $L_b$ that the model was compiled with, on batch b of $n_b$
    samples: what `evaluate` returns as `loss`. Regularization and `add_loss`
    are in it. Weights, state and seeds of the model never change. Layers of 16
    bits are looked at in float32.

    All functions of `analysis` take a model and data, or one of these in place
    of the model. Making it once keeps what was compiled.

    Args:
        model: A built and compiled `keras.Model` or `LWSAMModel`.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes, a
            `tf.data.Dataset` included. The data is read once, and kept in
            memory; so a data set must have an end.
        y: Targets.
        sample_weight: Weights of the samples.
        batch_size: Samples evaluated at a time, for arrays. Defaults to `32`.
        training: Whether the network is called as in training: BatchNorm
            normalizes by the batch, and dropout draws the same masks each
            time. Defaults to `False`: as in `evaluate`.

    Attributes:
        layer_paths: Paths of the layers with weights that can be perturbed.
        size: Number of those weights, the length of the vectors.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or not compiled, or if there is
            no data.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.array([[1.0], [2.0]]), np.zeros((2, 1))
    >>> objective = analysis.Objective(model, x, y)
    >>> float(objective.loss())
    2.5
    """

    def __init__(
        self,
        model: keras.Model,
        x=None,
        y=None,
        sample_weight=None,
        batch_size: int = 32,
        training: bool = False,
    ):
        engine_class = _engines.current()
        _arguments.instance("model", model, keras.Model, "a keras.Model")
        _checks.is_built(model)
        _checks.is_compiled(model)
        _arguments.count("batch_size", batch_size)
        _arguments.boolean("training", training)
        self.network = network_of(model)
        self._batches = batches_of(
            self.network, x, y, sample_weight, batch_size
        )
        sizes = [engine_class.batches.size(batch) for batch in self._batches]
        self._shares = [size / sum(sizes) for size in sizes]
        _keras.build_compiled(model, iter(self._batches[:1]))

        layers = _layers.all_layers(self.network)
        _checks.has_trainable_layer(self.network, layers)
        self.variables, self.layer_of = variables_of(self.network)
        self._layers = _layers.perturbable(
            layers, self.network.trainable_variables
        )
        self._indices = [i for layer in self._layers for i in layer.indices]

        def make_engine():
            return engine_class(
                network=self.network,
                compute_loss=functools.partial(_keras.compute_loss, model),
                per_sample=None,
                optimizer=_NoScaling,
                weights=self.variables,
                layer_of=self.layer_of,
                dense=(),
                synchronize=False,
            )

        self._evaluations = engine_class.evaluations(
            self.network,
            make_engine,
            self._indices,
            training,
            model.run_eagerly,
        )

    @property
    def layer_paths(self) -> list[str]:
        return [layer.path for layer in self._layers]

    @property
    def size(self) -> int:
        return sum(math.prod(v.shape) for v in self.perturbed)

    @property
    def perturbed(self) -> list:
        """The variables that a vector has entries for, in its order."""
        return [self.variables[i] for i in self._indices]

    @property
    def values(self) -> list:
        """The present values of all of `variables`, as tensors.

        Of at least float32, as all that is evaluated.
        """
        return self._evaluations.values(self.variables)

    def places(self, layers: str | list[str] | None = None) -> np.ndarray:
        """Where the weights of some layers are in a vector.

        Args:
            layers: A layer path, or a list of them; `None`: all.

        Returns:
            Vector of booleans.
        """
        if layers is None:
            return np.ones(self.size, bool)
        expected = (
            "`layers` must be a layer path, a list of them, or None. "
            f"The paths are {self.layer_paths}. Received: layers={layers!r}"
        )
        if not isinstance(layers, str | list | tuple):
            raise TypeError(f"{expected} (of type {type(layers).__name__})")
        wanted = [layers] if isinstance(layers, str) else layers
        if not wanted or any(path not in self.layer_paths for path in wanted):
            raise ValueError(expected)
        return np.concatenate(
            [
                np.full(math.prod(weight.shape), layer.path in wanted)
                for layer in self._layers
                for weight in layer.weights
            ]
        )

    def loss(self, at: list | None = None) -> float:
        """The loss.

        Args:
            at: List like `values`; `None`: the present values.
        """
        at = self.values if at is None else at
        losses = [self._evaluations.loss(b, at) for b in self._batches]
        return math.fsum(
            share * float(loss)
            for share, loss in zip(self._shares, losses, strict=True)
        )

    def gradient(self, at: list | None = None) -> np.ndarray:
        """The gradient with respect to the perturbable weights, a vector.

        Args:
            at: As of `loss`.
        """
        at = self.values if at is None else at
        return self._mean(lambda b: self._evaluations.gradients(b, at))

    def product(self, vector, at: list | None = None) -> np.ndarray:
        """The Hessian with respect to those weights, times a vector.

        Args:
            vector: Vector with `size` entries.
            at: As of `loss`.
        """
        at = self.values if at is None else at
        parts = self._tensors(vector)
        return self._mean(lambda b: self._evaluations.product(b, at, parts))

    def moved(self, vector) -> list:
        """The present values, those of the perturbable weights displaced.

        Args:
            vector: Vector with `size` entries.
        """
        values = self.values
        for i, part in zip(self._indices, self._tensors(vector), strict=True):
            values[i] = values[i] + part
        return values

    def vector(self, tensors: list) -> np.ndarray:
        """A vector of float64, from a tensor for each of `perturbed`."""
        return np.concatenate([to_float64(t).reshape(-1) for t in tensors])

    def _tensors(self, vector):
        """A tensor for each of `perturbed`, in at least float32."""
        ends = np.cumsum([math.prod(v.shape) for v in self.perturbed])
        return [
            ops.convert_to_tensor(
                part.reshape(v.shape),
                "float64" if v.dtype == "float64" else "float32",
            )
            for part, v in zip(
                np.split(np.asarray(vector, "float64"), ends[:-1]),
                self.perturbed,
                strict=True,
            )
        ]

    def _mean(self, function):
        """The mean of lists of tensors over the batches, as a vector."""
        total = 0.0
        for batch, share in zip(self._batches, self._shares, strict=True):
            total = total + share * self.vector(function(batch))
        return total


class _NoScaling:
    """In the place of an optimizer: in float32 no loss needs to be scaled."""

    @staticmethod
    def scale_loss(loss):
        return loss


def network_of(model) -> keras.Model:
    """The network that a wrapper trains, or the model itself."""
    return model.model if isinstance(model, LWSAMModel) else model


def variables_of(network) -> tuple[list, list]:
    """What a network's loss depends on, and the layers that own it.

    The weights of the layers, input side first; then what else is a number, as
    moving statistics are and seeds are not (of no layer).
    """
    layers = _layers.all_layers(network)
    weights = [(w, layer.layer) for layer in layers for w in layer.weights]
    known = {id(w) for w, _ in weights}
    others = [
        (v, None)
        for v in network.variables
        if id(v) not in known and keras.backend.is_float_dtype(v.dtype)
    ]
    variables, owners = zip(*weights, *others, strict=True)
    return list(variables), list(owners)


def objective_of(model, x, y, sample_weight, batch_size, training) -> Objective:
    """What the functions of `analysis` make of a model and data."""
    if not isinstance(model, Objective):
        return Objective(model, x, y, sample_weight, batch_size, training)
    if x is not None or y is not None or sample_weight is not None:
        raise ValueError(
            "An `Objective` holds its data. Give either a model with data, or "
            "an objective alone. "
            f"Received: model={model!r} together with x, y or sample_weight"
        )
    return model
