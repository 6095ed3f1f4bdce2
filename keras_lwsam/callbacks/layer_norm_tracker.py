"""`LayerNormTracker`: what a step does to every layer."""

import os

import keras
import numpy as np

from keras_lwsam import _arguments, _layers, _records
from keras_lwsam.analysis.objective import network_of
from keras_lwsam.model import LWSAMModel

# Columns of a row, and the names of their scalars in logs and TensorBoard.
SCALARS = {
    "gradient_norm": "l2_norm/grad",
    "weight_norm": "l2_norm/weight",
    "update_norm": "l2_norm/update",
    "update_ratio": "l2_ratio/update",
    "perturbation_norm": "l2_norm/perturbation",
    "cosine": "cosine/clean_sharp",
}
MODEL_COLUMNS = ("epoch", "batch", *SCALARS)
COLUMNS = ("epoch", "batch", "layer", *SCALARS, "selected")

_UNKNOWN = dict.fromkeys(
    ("gradient_norm", "update_norm", "perturbation_norm", "cosine"), np.nan
)


class LayerNormTracker(keras.callbacks.Callback):
    r"""Records norms of gradients, weights, updates and perturbations.

    For each layer l, and for the whole model, at the end of an epoch (root
    mean squares over its steps t, except for the weights) and of every so many
    batches (of that batch):

    - `gradient_norm`: $\lVert g_l \rVert_2$ of the gradient that the optimizer
      was handed;
    - `weight_norm`: $\lVert w_l \rVert_2$ after the step;
    - `update_norm`: $\lVert w_l^{(t+1)} - w_l^{(t)} \rVert_2$; learning rate,
      momentum, weight decay and clipping are in it;
    - `update_ratio`: `update_norm / weight_norm`;
    - `perturbation_norm`: $\lVert \epsilon_l \rVert_2$, in the units of the
      weights; 0 where a step did not perturb the layer;
    - `cosine`: $\langle g_l, \tilde g_l \rangle / (\lVert g_l \rVert_2
      \lVert \tilde g_l \rVert_2)$ of the gradients before and after the
      perturbation; over an epoch, of the summed products and squares.

    With a `LWSAMModel` all of it comes out of the training step, which computes
    those gradients anyway; watching costs no gradient and no pass. What a
    step does not compute is NaN: the cosine of a layer that is not perturbed
    (its clean gradient is what few layers save), or of a method that has no
    clean gradient; that of the model is over the weights of which both are
    known. In batches that are split (m-sharpness) and on replicas the squares
    are averaged over the parts. GAM shows the first of its perturbations;
    EntropySGD walks, and has none; ESAM's two gradients are of different
    samples.

    On a step without perturbation (`rho=0`) the gradients are measured for as
    long as a tracker is attached. In graph mode that may change the last bits
    of the weights. A plain `keras.Model` does not hand out its gradients: there
    all but the weight norm is NaN; `LWSAMModel(network, rho=0)` trains as it
    does, and shows them.

    Args:
        every: Record every so many batches too, a positive int. Defaults to
            `None`: at the end of epochs only.
        csv_path: File to write `history` to, as it grows; `model_history` goes
            next to it, with `_model` after the name. Training that goes on
            from a later epoch goes on with the file.
        plot_path: Picture (such as a PNG) to draw when training ends.
        log_dir: Directory for TensorBoard scalars, by epoch (by batch with
            `every`): `l2_norm/grad/<layer>`, `l2_norm/weight/<layer>`,
            `l2_norm/update/<layer>`, `l2_ratio/update/<layer>`,
            `l2_norm/perturbation/<layer>`, `cosine/clean_sharp/<layer>`; and
            the same without `/<layer>` for the model.
        add_to_logs: Whether those scalars join the logs of each epoch, so that
            `History`, and any callback behind this one (`CSVLogger`,
            `TensorBoard`, those of Weights & Biases), has them as it has
            metrics. Defaults to `False`.

    Attributes:
        history: List of dicts, one a layer and time, with the keys `epoch`,
            `batch` (`None` for a whole epoch, else counted from 0 within it),
            `layer`, the columns above, and `selected`, whether the method acts
            on the layer. Of the latest `fit`;
            `pandas.DataFrame(tracker.history)` is a tidy table.
        model_history: The same for the whole model, one row a time, without
            `layer` and `selected`.

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
    >>> model = LWSAMModel(network, layers=1, rho=0.05)
    >>> model.compile("sgd", "mse")
    >>> tracker = callbacks.LayerNormTracker()
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 1)), callbacks=[tracker], verbose=0
    ... )
    >>> [(row["layer"], row["selected"]) for row in tracker.history]
    [('net/hidden', False), ('net/output', True)]
    >>> [round(row["perturbation_norm"], 4) for row in tracker.history]
    [0.0, 0.05]
    """

    def __init__(
        self,
        every: int | None = None,
        csv_path: str | os.PathLike | None = None,
        plot_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
        add_to_logs: bool = False,
    ):
        super().__init__()
        if every is not None:
            _arguments.count("every", every)
        self.every = every
        self.csv_path = _arguments.path("csv_path", csv_path)
        self.plot_path = _arguments.path("plot_path", plot_path)
        self.log_dir = _arguments.path("log_dir", log_dir)
        self.add_to_logs = _arguments.boolean("add_to_logs", add_to_logs)
        self._begin()

    @property
    def history(self) -> list[dict]:
        return self._table.rows

    @property
    def model_history(self) -> list[dict]:
        return self._model_table.rows

    def _begin(self, csv_path=None, log_dir=None):
        self._table = _records.Table(COLUMNS, csv_path)
        self._model_table = _records.Table(
            MODEL_COLUMNS, _records.beside(csv_path, "model")
        )
        self._scalars = _records.Scalars(log_dir)
        self._epoch = None
        self._batches = self._step = 0
        self._layers = []

    def on_train_begin(self, logs=None):
        self._begin(self.csv_path, self.log_dir)
        if isinstance(self.model, LWSAMModel):
            self.model.watched = True

    def on_epoch_begin(self, epoch, logs=None):
        if self._epoch is None:
            self._table.begin(epoch)
            self._model_table.begin(epoch)
        self._epoch = epoch
        self._batches = 0

    def on_train_batch_end(self, batch, logs=None):
        # With several steps in one execution, `batch` jumps.
        before, self._batches = self._batches, batch + 1
        self._step += self._batches - before
        every = self.every
        if every is not None and self._batches // every > before // every:
            self._scalars.write(self._record(batch), self._step)

    def on_epoch_end(self, epoch, logs=None):
        numbers = self._record(None)
        self._scalars.write(numbers, self._step if self.every else epoch)
        if self.add_to_logs and logs is not None:
            logs.update(numbers)

    def on_train_end(self, logs=None):
        if isinstance(self.model, LWSAMModel):
            self.model.watched = False
        self._scalars.close()
        if self.plot_path is not None and self.history:
            self.plot(self.plot_path)

    def plot(self, path: str | os.PathLike | None = None):
        """Draws the gradient norms: layers by epochs, perturbed ones marked.

        Args:
            path: File to write; the figure is only returned if `None`.

        Returns:
            The `matplotlib.figure.Figure`. More pictures are in `plots`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is nothing to draw yet.
        """
        from keras_lwsam import plots

        figure = plots.layer_norms(
            [row for row in self.history if row["batch"] is None]
        )
        if path is not None:
            figure.savefig(path)
        return figure

    def _record(self, batch):
        """Adds the rows of a time; returns its scalars."""
        if not self._layers:
            # Not before training: `fit` may be what builds a plain model.
            self._layers = _layers.perturbable(
                _layers.all_layers(network_of(self.model)),
                self.model.trainable_variables,
            )
        by_path, of_model, selected = {}, _UNKNOWN, ()
        if isinstance(self.model, LWSAMModel):
            by_path, of_model = self.model.measurements(batch is None)
            if not self.model.method.is_plain:
                selected = set(self.model.selected_layers)
        when = {"epoch": self._epoch, "batch": batch}
        norms = _layers.weight_norms(self._layers)
        rows = [
            {
                **when,
                "layer": layer.path,
                **_columns(by_path.get(layer.path, _UNKNOWN), norm),
                "selected": layer.path in selected,
            }
            for layer, norm in zip(self._layers, norms, strict=True)
        ]
        model_row = {**when, **_columns(of_model, np.sqrt(np.sum(norms**2)))}
        self._table.extend(rows)
        self._model_table.extend([model_row])
        return _records.scalars(SCALARS, rows, [model_row])


def _columns(measured, weight_norm):
    weight_norm = float(weight_norm)
    measured = {
        **measured,
        "weight_norm": weight_norm,
        "update_ratio": (
            measured["update_norm"] / weight_norm if weight_norm else np.nan
        ),
    }
    return {column: measured[column] for column in SCALARS}
