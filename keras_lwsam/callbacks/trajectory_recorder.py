"""`TrajectoryRecorder`: where the weights were while training."""

import os
import pathlib

import keras

from keras_lwsam import _arguments
from keras_lwsam.analysis.objective import network_of
from keras_lwsam.analysis.trajectory import save_weights, saved_weights


class TrajectoryRecorder(keras.callbacks.Callback):
    """Writes the weights to files, for `analysis.TrajectoryPlane`.

    The weights before training, and after every so many epochs: one file a
    time, `weights_000000.npz`, ..., each there completely or not at all. When
    training goes on from a later epoch (`initial_epoch`, `BackupAndRestore`),
    the files of the epochs before stay; those of later ones, and in a new
    training all of them, are deleted when it begins.

    Args:
        directory: Where the files go, for this training alone; made when it
            is missing. They take as much room as the network each time.
        every: Epochs between two files, a positive int. Defaults to `1`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `every` is not positive.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_lwsam import analysis, callbacks
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.random.normal(size=(8, 4)), np.ones((8, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorder = callbacks.TrajectoryRecorder(folder)
    ...     history = model.fit(
    ...         x, y, batch_size=2, epochs=3, verbose=0, callbacks=[recorder]
    ...     )
    ...     plane = analysis.TrajectoryPlane(folder)
    >>> len(plane.trajectory)
    4
    """

    def __init__(self, directory: str | os.PathLike, every: int = 1):
        super().__init__()
        if _arguments.path("directory", directory) is None:
            raise TypeError(
                "`directory` must be the path of a directory. Received: None"
            )
        self.directory = pathlib.Path(directory)
        self.every = _arguments.count("every", every)
        self._started = False

    def on_train_begin(self, logs=None):
        self._started = False

    def on_epoch_begin(self, epoch, logs=None):
        # Not before the first epoch: others may yet restore the weights, or
        # `fit` may be what builds the model.
        if not self._started:
            self._started = True
            self.directory.mkdir(parents=True, exist_ok=True)
            for number, path in saved_weights(self.directory):
                if number >= epoch:
                    path.unlink()
            self._save(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self._save(epoch + 1)

    def _save(self, number):
        save_weights(self.directory, number, network_of(self.model))
