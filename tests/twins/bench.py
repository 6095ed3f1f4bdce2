"""A network whose weights are moved, evaluated and put back."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tests.backends import differentiated, to_numpy
from tests.twins.draws import Draws
from tests.twins.vectors import norm, ratio


def cross_entropies(y, logits):
    """Sparse categorical cross-entropy from logits of each sample."""
    return keras.losses.sparse_categorical_crossentropy(
        y, logits, from_logits=True
    )


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples, labels and sample weights."""

    x: object
    y: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, x, y, weights=None):
        """A batch whose samples weigh 1 if not said otherwise."""
        y = np.asarray(y)
        if weights is None:
            weights = np.ones(len(y))
        return cls(x, y, np.asarray(weights, "float32"))

    def __len__(self):
        return len(self.y)

    def take(self, indices):
        """Some samples, in the order of the batch."""
        indices = np.sort(indices)
        x = keras.tree.map_structure(lambda a: np.asarray(a)[indices], self.x)
        return Batch(x, self.y[indices], self.weights[indices])

    def times(self, weights):
        """The same samples with other weights."""
        return Batch(self.x, self.y, self.weights * np.float32(weights))


@dataclasses.dataclass(frozen=True)
class Pass:
    """What an evaluation returns; `states` are those it leaves behind."""

    loss: float
    gradient: np.ndarray
    values: np.ndarray
    predictions: np.ndarray
    states: list


class Bench:
    """A network and its optimizer, with all weights as one vector.

    `weights` and `states` are the snapshot from which every pass starts.
    `selected` has an entry per weight: whether its variable is in S.

    Args:
        measured_everywhere: Whether a perturbation is divided by the norm
            over all variables instead of S.
    """

    def __init__(
        self,
        network,
        optimizer,
        is_selected,
        per_sample_loss=cross_entropies,
        jit_compile=False,
        measured_everywhere=False,
        draws=None,
    ):
        self.network = network
        self.optimizer = optimizer
        self.variables = network.trainable_variables
        self.per_sample_loss = per_sample_loss
        self.jit_compile = jit_compile
        self.measured_everywhere = measured_everywhere
        self.draws = draws or Draws()
        self.step_number = 0
        self.memory = {}
        self.chosen = [bool(is_selected(v)) for v in self.variables]
        self.connected = [True for _ in self.variables]
        self._functions = {}
        self.snapshot()

    @property
    def selected(self):
        """An entry per weight: whether it is in S and has a gradient."""
        pairs = zip(self.chosen, self.connected, strict=True)
        return self.spread([chosen and there for chosen, there in pairs])

    def spread(self, entries):
        """A vector from one number per variable."""
        sizes = [int(np.prod(v.shape)) for v in self.variables]
        return np.repeat(np.asarray(entries), sizes)

    def join(self, arrays):
        """A vector from one array per variable."""
        return np.concatenate([np.ravel(a).astype("float64") for a in arrays])

    def split(self, vector):
        """One array per variable; they share the memory of the vector."""
        ends = np.cumsum([int(np.prod(v.shape)) for v in self.variables])
        parts = np.split(vector, ends[:-1])
        pairs = zip(parts, self.variables, strict=True)
        return [part.reshape(v.shape) for part, v in pairs]

    def on_selected(self, vector):
        """The vector on S, zero elsewhere."""
        return np.where(self.selected, vector, 0.0)

    def where_selected(self, vector, other):
        """One vector on S, the other elsewhere."""
        return np.where(self.selected, vector, other)

    def norm(self, vector):
        """Norm over S."""
        return norm(self.on_selected(vector))

    def direction(self, vector):
        """The vector divided by its norm, on S."""
        measured = (
            vector if self.measured_everywhere else self.on_selected(vector)
        )
        return ratio(1.0, norm(measured)) * self.on_selected(vector)

    def snapshot(self):
        """From now on passes start here."""
        self.weights = self.join([v.numpy() for v in self.variables])
        self.states = _read(self.network.non_trainable_variables)

    def evaluate(
        self, batch, epsilon=0.0, function=None, regular=True, training=True
    ):
        """One pass at the weights plus `epsilon`; everything is put back.

        Args:
            batch: A `Batch`.
            epsilon: A vector.
            function: Values of the samples, a function of labels and
                predictions, whose weighted mean is differentiated. Defaults
                to the loss of each sample.
            regular: Whether `network.losses` are added.
            training: The mode in which the network is called.
        """
        run = self._function(
            function or self.per_sample_loss, regular, training
        )
        self._assign(self.weights + epsilon)
        loss, values, predictions, gradients = run(
            batch.x, batch.y, batch.weights
        )
        states = _read(self.network.non_trainable_variables)
        self._assign(self.weights)
        _write(self.network.non_trainable_variables, self.states)
        if regular:
            self.connected = [g is not None for g in gradients]
        return Pass(
            float(loss),
            self._gradient(gradients),
            np.asarray(values, "float64"),
            np.asarray(predictions),
            states,
        )

    def update(self, gradient, counted):
        """The optimizer's step; keeps the states that `counted` left."""
        _write(self.network.non_trainable_variables, counted.states)
        self._apply(gradient)

    def displace(self, vector):
        """Adds a vector to the present weights."""
        self._assign(self.join([v.numpy() for v in self.variables]) + vector)

    def displacement_of(self, gradient):
        """What the optimizer would add to the weights; it is put back."""
        slots = _read(self.optimizer.variables)
        self._apply(gradient)
        moved = self.join([v.numpy() for v in self.variables]) - self.weights
        self._assign(self.weights)
        _write(self.optimizer.variables, slots)
        return moved

    def _apply(self, gradient):
        arrays = zip(
            self.split(gradient), self.variables, self.connected, strict=True
        )
        self.optimizer.apply(
            [
                ops.convert_to_tensor(array, v.dtype) if connected else None
                for array, v, connected in arrays
            ],
            self.variables,
        )

    def _assign(self, vector):
        for v, value in zip(self.variables, self.split(vector), strict=True):
            v.assign(ops.convert_to_tensor(value, v.dtype))

    def _gradient(self, gradients):
        pairs = zip(gradients, self.variables, strict=True)
        return self.join(
            [np.zeros(v.shape) if g is None else to_numpy(g) for g, v in pairs]
        )

    def _function(self, function, regular, training):
        key = function, regular, training
        if key not in self._functions:
            self._functions[key] = self._evaluation(function, regular, training)
        return self._functions[key]

    def _evaluation(self, function, regular, training):
        def run(x, y, weights):
            def compute():
                predictions = self.network(x, training=training)
                values = function(y, predictions)
                loss = ops.mean(values * ops.cast(weights, values.dtype))
                if regular:
                    loss += sum(self.network.losses)
                return loss, values, predictions

            # XLA draws other random numbers than TensorFlow.
            results, gradients = differentiated(
                self.network, compute, self.jit_compile
            )
            return *map(to_numpy, results), gradients

        return run


def train(
    twin,
    network,
    optimizer,
    batches,
    is_selected,
    jit_compile=False,
    per_sample_loss=cross_entropies,
    measured_everywhere=False,
    draws=None,
):
    """Trains a network; returns the logs of each step.

    Args:
        twin: One of `TWINS`; it holds nothing and may be used again.
        network: Trained in place.
        optimizer: A new one.
        batches: Tuples `(x, y)` or `(x, y, sample_weight)`.
        is_selected: Whether a trainable variable is in S.
        jit_compile: Whether XLA evaluates.
        per_sample_loss: A function of labels and predictions.
        measured_everywhere: As in `Bench`.
        draws: As in the package's docstring.

    Returns:
        A dictionary for each step: `loss`, of the pass that counts, and where
        they exist `sharpness` and `gradient_norm`.
    """
    keras.utils.set_random_seed(1)
    optimizer.build(network.trainable_variables)
    bench = Bench(
        network,
        optimizer,
        is_selected,
        per_sample_loss,
        jit_compile,
        measured_everywhere,
        draws,
    )
    return [
        _step(twin, bench, number, Batch.of(*batch))
        for number, batch in enumerate(batches)
    ]


def _step(twin, bench, number, batch):
    bench.step_number = number
    bench.draws.start_step()
    bench.snapshot()
    return twin.step(bench, batch)


def _read(variables):
    return [v.numpy().copy() for v in variables]


def _write(variables, values):
    for v, value in zip(variables, values, strict=True):
        v.assign(value)
