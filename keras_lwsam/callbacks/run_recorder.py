"""`RunRecorder`: what a run was, and how it went, in a directory."""

import datetime
import json
import math
import os
import pathlib
import platform
import warnings

import keras
import numpy as np

from keras_lwsam import _arguments, _records, _version
from keras_lwsam.analysis.objective import network_of


class RunRecorder(keras.callbacks.Callback):
    """Writes a run's configuration and logs to a directory, for `plots.report`.

    - `run.json`: method, layers, optimizer, loss, network, lengths, versions;
    - `history.csv`: the logs of each epoch, as `keras.callbacks.CSVLogger`
      writes them. Training that goes on from a later epoch goes on with it.

    Trackers that write next to these are part of the same report:

    - `LayerNormTracker(csv_path=run / "layer_norms.csv")`;
    - `SharpnessTracker(x, y, csv_path=run / "sharpness.csv")`;
    - any `Landscape.save(run / "name.npz")`.

    A directory of such directories is a comparison of runs.

    Args:
        run_dir: The directory, for this run alone; made when it is missing.
        name: What the run is called in pictures. Defaults to the name of the
            directory.

    Raises:
        TypeError: If an argument has the wrong type.

    Example:

    >>> import keras, numpy as np, pathlib, tempfile
    >>> from keras_lwsam import LWSAMModel, callbacks
    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model = LWSAMModel(network)
    >>> model.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorder = callbacks.RunRecorder(folder, name="first")
    ...     history = model.fit(
    ...         np.ones((8, 4)), np.ones((8, 1)), verbose=0,
    ...         callbacks=[recorder],
    ...     )
    ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
    ['history.csv', 'run.json']
    """

    def __init__(self, run_dir: str | os.PathLike, name: str | None = None):
        super().__init__()
        if _arguments.path("run_dir", run_dir) is None:
            raise TypeError(
                "`run_dir` must be the path of a directory. Received: None"
            )
        if not isinstance(name, str | None):
            raise TypeError(
                "`name` must be a string. "
                f"Received: name={name!r} (of type {type(name).__name__})"
            )
        self.run_dir = pathlib.Path(run_dir)
        self.name = self.run_dir.resolve().name if name is None else name
        self._logger = None

    def on_train_begin(self, logs=None):
        self.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.run_dir / "run.json"
        with warnings.catch_warnings():
            # That a function cannot be loaded again; it shall only be named.
            warnings.simplefilter("ignore")
            configuration = _plain(self._configuration())
        path.write_text(json.dumps(configuration, indent=2) + "\n")
        self._logger = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._logger is not None:
            return
        # Not before: a backup may yet have restored a later epoch.
        path = self.run_dir / "history.csv"
        before = _records.rows_before(path, epoch)
        if before:
            _records.write(path, before[0], before)
        self._logger = keras.callbacks.CSVLogger(path, append=bool(before))
        self._logger.set_model(self.model)
        self._logger.on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._logger.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        if self._logger is not None:
            self._logger.on_train_end(logs)

    def _configuration(self):
        model, optimizer = self.model, self.model.optimizer
        network = network_of(model)
        sharpness_aware = {}
        if network is not model:
            sharpness_aware = {
                "method": repr(model.method),
                "layers": repr(model.selection),
                "schedule": repr(model.schedule),
                "perturbation_norm": model.perturbation_norm,
                "sync_perturbation": model.sync_perturbation,
                "num_batch_splits": model.num_batch_splits,
            }
        return {
            "name": self.name,
            "started": datetime.datetime.now().isoformat(timespec="seconds"),
            "sharpness_aware": sharpness_aware,
            "network": {
                "name": network.name,
                "class": type(network).__name__,
                "parameters": network.count_params(),
                "dtype": network.dtype_policy.name,
            },
            "optimizer": {
                "class": type(optimizer).__name__,
                **optimizer.get_config(),
            },
            "loss": model.loss,
            "fit": {key: self.params.get(key) for key in ("epochs", "steps")},
            "versions": {
                "keras_lwsam": _version.__version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
                "python": platform.python_version(),
            },
        }


def _plain(value):
    """A structure as JSON has it: numbers, and names of what is none."""
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        # A number of single precision as it was written down.
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, keras.losses.Loss):
        return value.name
    return getattr(value, "__name__", None) or repr(value)
