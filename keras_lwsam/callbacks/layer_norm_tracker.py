"""`LayerNormTracker`: gradient and weight norms of every layer."""

import csv
import os

import keras
import numpy as np

from keras_lwsam import _arguments, _layers, _tensorboard

COLUMNS = (
    "epoch",
    "batch",
    "layer",
    "gradient_norm",
    "weight_norm",
    "selected",
)


class LayerNormTracker(keras.callbacks.Callback):
    r"""Records each layer's gradient norm, weight norm and selection.

    At the end of an epoch the gradient norm is the root mean square over its
    steps, $\sqrt{\mathrm{mean}_t \lVert g_l^{(t)} \rVert_2^2}$, of the gradient
    that the optimizer was handed; after a batch it is that of the batch.

    With a `LWSAMModel` the norms come out of the training step, which computes
    those gradients anyway. (On a step without perturbation, `rho=0`, they are
    measured for as long as a tracker is attached. In graph mode that may
    change the last bits of the weights.) A plain `keras.Model` does not hand
    out its gradients: there the gradient norm is NaN.

    Args:
        every: Record every so many batches too, a positive int. Defaults to
            `None`: at the end of epochs only.
        csv_path: File to write the history to, as it grows.
        plot_path: Picture (such as a PNG) to draw when training ends.
        log_dir: Directory for TensorBoard scalars, `l2_norm/grad/<layer>`
            and `l2_norm/weight/<layer>`, by epoch (by batch with `every`).

    Attributes:
        history: List of dicts, one a layer and time, with the keys `epoch`,
            `batch` (`None` for a whole epoch, else counted from 0 within it),
            `layer`, `gradient_norm`, `weight_norm`, `selected`. Of the latest
            `fit`.

    Raises:
        TypeError: If `every` is not an int, or a path not a path.
        ValueError: If `every` is not positive.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import LWSAMModel, callbacks
    >>> network = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="hidden"),
    ...     keras.layers.Dense(1, name="output"),
    ... ], name="net")
    >>> model = LWSAMModel(network, layers=1)
    >>> model.compile("sgd", "mse")
    >>> tracker = callbacks.LayerNormTracker()
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 1)), callbacks=[tracker], verbose=0
    ... )
    >>> [(row["layer"], row["selected"]) for row in tracker.history]
    [('net/hidden', False), ('net/output', True)]
    """

    def __init__(
        self,
        every: int | None = None,
        csv_path: str | os.PathLike | None = None,
        plot_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
    ):
        super().__init__()
        if every is not None:
            _arguments.count("every", every)
        self.every = every
        self.csv_path = _arguments.path("csv_path", csv_path)
        self.plot_path = _arguments.path("plot_path", plot_path)
        self.log_dir = _arguments.path("log_dir", log_dir)
        self.history = []
        self._epoch = 0
        self._batches = 0
        self._step = 0
        self._layers = []
        self._writer = None

    def on_train_begin(self, logs=None):
        self.history = []
        self._step = 0
        self._layers = []
        if _has_gradients(self.model):
            self.model.measures_plain_steps = True
        if self.csv_path is not None:
            with open(self.csv_path, "w", newline="") as file:
                csv.DictWriter(file, COLUMNS).writeheader()
        if self.log_dir is not None:
            self._writer = _tensorboard.summary_writer(self.log_dir)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = 0

    def on_train_batch_end(self, batch, logs=None):
        # With several steps in one execution, `batch` jumps.
        before, self._batches = self._batches, batch + 1
        self._step += self._batches - before
        every = self.every
        if every is not None and self._batches // every > before // every:
            norms = (
                self.model.layer_gradient_norms
                if _has_gradients(self.model)
                else {}
            )
            self._record(batch, norms, self._step)

    def on_epoch_end(self, epoch, logs=None):
        norms = (
            self.model.epoch_layer_gradient_norms
            if _has_gradients(self.model)
            else {}
        )
        self._record(None, norms, self._step if self.every else epoch)

    def on_train_end(self, logs=None):
        if _has_gradients(self.model):
            self.model.measures_plain_steps = False
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self.plot_path is not None and self.history:
            self.plot(self.plot_path)

    def plot(self, path: str | os.PathLike | None = None):
        """Draws the norms: layers by epochs, perturbed layers marked.

        Args:
            path: File to write; the figure is only returned if `None`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is nothing to draw yet.
        """
        from keras_lwsam._plots import layer_norms

        figure = layer_norms([r for r in self.history if r["batch"] is None])
        if path is not None:
            figure.savefig(path)
        return figure

    def _record(self, batch, gradient_norms, step):
        if not self._layers:
            # Not before training: `fit` may be what builds a plain model.
            self._layers = _layers.perturbable(
                _layers.all_layers(_network(self.model)),
                self.model.trainable_variables,
            )
        selected = set(getattr(self.model, "selected_layers", ()))
        rows = [
            {
                "epoch": self._epoch,
                "batch": batch,
                "layer": layer.path,
                "gradient_norm": gradient_norms.get(layer.path, np.nan),
                "weight_norm": float(weight_norm),
                "selected": layer.path in selected,
            }
            for layer, weight_norm in zip(
                self._layers, _layers.weight_norms(self._layers), strict=True
            )
        ]
        self.history.extend(rows)
        if self.csv_path is not None:
            with open(self.csv_path, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerows(rows)
        if self._writer is not None:
            self._write_scalars(rows, step)

    def _write_scalars(self, rows, step):
        scalars = {}
        for row in rows:
            for kind, column in (
                ("grad", "gradient_norm"),
                ("weight", "weight_norm"),
            ):
                if not np.isnan(row[column]):
                    scalars[f"l2_norm/{kind}/{row['layer']}"] = row[column]
        _tensorboard.write_scalars(self._writer, scalars, step)


def _has_gradients(model):
    return hasattr(type(model), "layer_gradient_norms")


def _network(model):
    return model.model if _has_gradients(model) else model
