"""`SharpnessTracker`: sharpness and curvature while training."""

import os
import warnings
from collections.abc import Collection

import keras
import numpy as np

from keras_lwsam import _arguments, _keras, _records
from keras_lwsam.analysis.hessian import (
    largest_eigenvalues,
    rademacher_products,
    scipy_linalg,
)
from keras_lwsam.analysis.objective import Objective
from keras_lwsam.analysis.sharpness import (
    Estimate,
    gaussian_rises,
    rise_along,
)

# Columns of a row, and the names of their scalars in logs and TensorBoard.
SCALARS = {
    "sharpness": "sharpness/sam",
    "average_sharpness": "sharpness/average",
    "average_sharpness_error": "sharpness/average_error",
    "trace": "hessian/trace",
    "trace_error": "hessian/trace_error",
}


class SharpnessTracker(keras.callbacks.Callback):
    r"""Measures sharpness and curvature of the loss, at chosen epochs.

    On the given data, at the weights with which an epoch ends, for the whole
    model and, if wanted, for each layer by itself (S = its weights):

    - `loss`: as `evaluate` returns it, of the model only;
    - `sharpness`: $L(w + \rho \, g_S / \lVert g_S \rVert_2) - L(w)$, the rise
      at SAM's perturbation (`analysis.sharpness`);
    - `average_sharpness`: the mean rise under Gaussian noise, and its
      standard error `average_sharpness_error`
      (`analysis.average_sharpness`);
    - `trace`: the trace of the Hessian, and its standard error `trace_error`
      (`analysis.hessian_trace`);
    - `eigenvalue_1` to `eigenvalue_k`: the largest eigenvalues of the Hessian
      (`analysis.hessian_eigenvalues`).

    Any compiled `keras.Model` can be watched; training itself is not touched.
    The price of a measurement, in passes over the data: two for `sharpness`,
    twice `num_noise_samples` forward, and one Hessian-vector product (about two
    gradients) for each of `num_trace_samples` and for each of about 20 steps
    for the eigenvalues. The layers share the gradient and the products for
    the trace; noise and eigenvalues cost the same again for each layer. So
    give it a few hundred samples, and layers only where they are wanted.

    Args:
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes. Read
            once, and kept.
        y: Targets.
        sample_weight: Weights of the samples.
        rho: Radius of SAM's perturbation, in units of the weights, a float
            >= 0. Defaults to `0.05`.
        noise_stddev: Standard deviation of the noise on each weight, a float
            >= 0. Defaults to `0.01`.
        num_noise_samples: Number of its draws; `0` leaves it out. Defaults to
            `5`.
        num_eigenvalues: Number k of eigenvalues; `0` leaves them out. Defaults
            to `1`. Needs scipy (`keras-lwsam[analysis]`).
        num_trace_samples: Number of draws for the trace; `0` leaves it out.
            Defaults to `5`.
        per_layer: Whether each layer is measured too. Defaults to `False`.
        epochs: Every so many epochs, a positive int; or the epochs, counted
            from 0, after which to measure. Defaults to `1`.
        before_training: Whether the weights before the first epoch are
            measured too, as epoch -1; the model must be built then. Defaults
            to `False`.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        seed: Seed of all draws; the same draws at each epoch. Defaults to `0`.
        csv_path: File to write `history` to, as it grows; `layer_history` goes
            next to it, with `_layers` after the name. Training that goes on
            from a later epoch goes on with the files.
        log_dir: Directory for TensorBoard scalars, by epoch: `sharpness/sam`,
            `sharpness/average`, `hessian/trace`, `hessian/eigenvalue_1`, ...;
            the same with `/<layer>` for each layer.
        add_to_logs: Whether the scalars of the model join the logs of the
            epoch, for `History` and any callback behind this one. Defaults to
            `False`. (In epochs without measurement they are NaN.)

    Attributes:
        history: List of dicts, one a time: `epoch` and what is listed above.
            Of the latest `fit`. What was left out has no key; what could not
            be computed (where the loss is not finite) is NaN.
        layer_history: The same, one a layer and time, with `layer` in place of
            `loss`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range; when `fit` begins, if the
            model has no loss, the data no end, or the loss no second
            derivatives where they are wanted.
        ImportError: When `fit` begins, if scipy is needed and not installed.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import LWSAMModel, callbacks
    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model = LWSAMModel(network)
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> tracker = callbacks.SharpnessTracker(x, y, num_noise_samples=0)
    >>> fitted = model.fit(x, y, epochs=2, verbose=0, callbacks=[tracker])
    >>> list(tracker.history[0])[:4]
    ['epoch', 'loss', 'sharpness', 'trace']
    >>> [round(row["eigenvalue_1"], 3) for row in tracker.history]
    [10.0, 10.0]
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        rho: float = 0.05,
        noise_stddev: float = 0.01,
        num_noise_samples: int = 5,
        num_eigenvalues: int = 1,
        num_trace_samples: int = 5,
        per_layer: bool = False,
        epochs: int | Collection[int] = 1,
        before_training: bool = False,
        batch_size: int = 32,
        seed: int = 0,
        csv_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
        add_to_logs: bool = False,
    ):
        super().__init__()
        self._data = (x, y, sample_weight)
        self.rho = _arguments.real("rho", rho, minimum=0.0)
        self.noise_stddev = _arguments.real(
            "noise_stddev", noise_stddev, minimum=0.0
        )
        self.num_noise_samples = _arguments.count(
            "num_noise_samples", num_noise_samples, minimum=0
        )
        self.num_eigenvalues = _arguments.count(
            "num_eigenvalues", num_eigenvalues, minimum=0
        )
        self.num_trace_samples = _arguments.count(
            "num_trace_samples", num_trace_samples, minimum=0
        )
        self.per_layer = _arguments.boolean("per_layer", per_layer)
        self.epochs = _arguments.epochs("epochs", epochs)
        self.before_training = _arguments.boolean(
            "before_training", before_training
        )
        self.batch_size = _arguments.count("batch_size", batch_size)
        self.seed = _arguments.count("seed", seed, minimum=0)
        self.csv_path = _arguments.path("csv_path", csv_path)
        self.log_dir = _arguments.path("log_dir", log_dir)
        self.add_to_logs = _arguments.boolean("add_to_logs", add_to_logs)
        self._objective = None
        self._begin()

    @property
    def history(self) -> list[dict]:
        return self._table.rows

    @property
    def layer_history(self) -> list[dict]:
        return self._layer_table.rows

    @property
    def _columns(self):
        """Columns that are measured, with the names of their scalars."""
        columns = {"sharpness": SCALARS["sharpness"]}
        if self.num_noise_samples:
            columns |= _those("average_sharpness")
        if self.num_trace_samples:
            columns |= _those("trace")
        for i in range(1, self.num_eigenvalues + 1):
            columns[f"eigenvalue_{i}"] = f"hessian/eigenvalue_{i}"
        return columns

    def _begin(self, csv_path=None, log_dir=None):
        columns = self._columns
        self._table = _records.Table(("epoch", "loss", *columns), csv_path)
        self._layer_table = _records.Table(
            ("epoch", "layer", *columns),
            _records.beside(csv_path, "layers") if self.per_layer else None,
        )
        self._scalars = _records.Scalars(log_dir)
        self._has_begun = False

    def on_train_begin(self, logs=None):
        if self.num_eigenvalues:
            scipy_linalg()
        self._begin(self.csv_path, self.log_dir)
        self._objective = None
        if _keras.is_built(self.model):
            self._prepare()

    def _prepare(self):
        self._objective = Objective(
            self.model, *self._data, batch_size=self.batch_size
        )
        if self.num_eigenvalues or self.num_trace_samples:
            # Now, and not after an epoch, if there are no second derivatives.
            self._objective.product(np.zeros(self._objective.size))

    def on_epoch_begin(self, epoch, logs=None):
        if self._has_begun:
            return
        # Not before: a backup may yet have restored a later epoch.
        self._has_begun = True
        self._table.begin(epoch)
        self._layer_table.begin(epoch)
        if self.before_training and epoch == 0:
            self._measure(-1)

    def on_epoch_end(self, epoch, logs=None):
        is_due = (
            (epoch + 1) % self.epochs == 0
            if isinstance(self.epochs, int)
            else epoch in self.epochs
        )
        numbers = dict.fromkeys(self._columns.values(), np.nan)
        if is_due:
            numbers |= self._measure(epoch)
        if self.add_to_logs and logs is not None:
            logs.update(numbers)

    def on_train_end(self, logs=None):
        self._scalars.close()
        self._objective = None

    def _measure(self, epoch):
        """Adds the rows of an epoch; returns the scalars of the model."""
        if self._objective is None:
            self._prepare()
        objective = self._objective
        shared = self._shared(objective)
        everything = objective.places()
        row = self._row(objective, everything, shared)
        self._table.extend([{"epoch": epoch, "loss": shared["loss"], **row}])
        rows = [
            {
                "epoch": epoch,
                "layer": path,
                **self._row(objective, objective.places(path), shared),
            }
            for path in (objective.layer_paths if self.per_layer else ())
        ]
        self._layer_table.extend(rows)
        of_model = _records.scalars(self._columns, [], [row])
        of_layers = _records.scalars(self._columns, rows, [])
        self._scalars.write({**of_model, **of_layers}, epoch)
        return of_model

    def _shared(self, objective):
        """What the rows of the model and of all layers are made of."""
        return {
            "loss": objective.loss(),
            "gradient": objective.gradient(),
            "products": list(
                rademacher_products(
                    objective,
                    objective.places(),
                    self.num_trace_samples,
                    self.seed,
                )
            ),
        }

    def _row(self, objective, places, shared):
        """The columns of the weights at some places."""
        gradient = np.where(places, shared["gradient"], 0.0)
        found = {
            "sharpness": rise_along(
                objective, gradient, self.rho, shared["loss"]
            )
        }
        if self.num_noise_samples:
            found |= _estimate(
                "average_sharpness",
                gaussian_rises(
                    objective,
                    places,
                    self.noise_stddev,
                    self.num_noise_samples,
                    self.seed,
                    shared["loss"],
                ),
            )
        if self.num_trace_samples:
            sums = [product[places].sum() for product in shared["products"]]
            found |= _estimate("trace", sums)
        for i, value in enumerate(self._eigenvalues(objective, places), 1):
            found[f"eigenvalue_{i}"] = float(value)
        return found

    def _eigenvalues(self, objective, places):
        """The largest ones; NaN for those that there are not."""
        values = np.full(self.num_eigenvalues, np.nan)
        places = np.flatnonzero(places)
        number = min(self.num_eigenvalues, len(places))
        if number:
            try:
                values[:number] = largest_eigenvalues(
                    objective, places, number, seed=self.seed
                )
            except RuntimeError as error:
                # Hours of training shall not end for a number that is missing.
                warnings.warn(str(error), stacklevel=2)
        return values


def _those(name):
    names = (name, f"{name}_error")
    return {column: SCALARS[column] for column in names}


def _estimate(name, draws):
    estimate = Estimate.of(draws)
    return {name: estimate.mean, f"{name}_error": estimate.error}
