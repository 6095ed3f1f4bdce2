"""`BackupAndRestore`: going on where training was stopped."""

import contextlib
import os
import pathlib
import re
import shutil

import keras

from keras_lwsam import _arguments, _keras, _workers

# As many epochs as two workers can be apart when one of them dies, and one.
_KEPT = 2


class BackupAndRestore(keras.callbacks.Callback):
    """Backs up every epoch, and goes on where training was stopped.

    As `keras.callbacks.BackupAndRestore`: when `fit` is called again after an
    interruption, with the same model, data and callbacks, it starts from the
    last epoch that was finished, with the weights, the optimizer, and what a
    `LWSAMModel` remembers. In two things it is safer:

    - A backup is one file, which is there complete or not at all. Keras writes
      the weights and the number of the epoch one after the other, over those
      of the epoch before.
    - It knows `tf.distribute.MultiWorkerMirroredStrategy`: each worker has a
      file of its own for each epoch, of which the last two are kept, and all go
      on from the last epoch that every one of them has backed up.

    When a worker dies, the others stop with an error, by themselves or by the
    system that started them. Start all again, each with its former index.

    Args:
        backup_dir: Directory for the backups, for this training alone; made
            when it is missing. Workers may share it, or have one each.
        delete_checkpoint: Whether the backups are deleted when `fit` ends.
            Defaults to `True`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `backup_dir` is empty.
        RuntimeError: When `fit` begins, if there are backups, but none of an
            epoch that all workers have.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from keras_lwsam import LWSAMModel, callbacks
    >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model = LWSAMModel(network)
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     backup = callbacks.BackupAndRestore(folder, delete_checkpoint=False)
    ...     first = model.fit(x, y, epochs=2, callbacks=[backup], verbose=0)
    ...     rest = model.fit(x, y, epochs=5, callbacks=[backup], verbose=0)
    >>> rest.epoch
    [2, 3, 4]
    """

    def __init__(
        self, backup_dir: str | os.PathLike, delete_checkpoint: bool = True
    ):
        super().__init__()
        if backup_dir is None:
            raise TypeError(
                "`backup_dir` must be the path of a directory. "
                "Received: backup_dir=None"
            )
        # An empty path would be the directory where Python was started.
        if not os.fspath(_arguments.path("backup_dir", backup_dir)):
            raise ValueError(
                "`backup_dir` must be the path of a directory. "
                "Received: backup_dir=''"
            )
        self.backup_dir = pathlib.Path(backup_dir)
        _arguments.boolean("delete_checkpoint", delete_checkpoint)
        self.delete_checkpoint = delete_checkpoint

    @property
    def _folder(self):
        """That of this worker."""
        return self.backup_dir / _workers.worker_name(self.model)

    def _path(self, epochs):
        return self._folder / f"epoch_{epochs:05d}.weights.h5"

    def _backups(self):
        """The numbers of epochs after which there is a backup, in order."""
        names = [path.name for path in self._folder.glob("epoch_*")]
        found = (re.fullmatch(r"epoch_(\d+)\.weights\.h5", n) for n in names)
        return sorted(int(match[1]) for match in found if match)

    def on_train_begin(self, logs=None):
        backups = self._backups() or [0]
        told = _workers.told_by_all(self.model, [backups[0], backups[-1]])
        earliest, latest = told.T
        epochs = int(latest.min())
        if earliest.max() > epochs:
            raise RuntimeError(
                "There is no epoch that all workers have a backup of, so they "
                "cannot go on together. Give each worker its former index and "
                "directory, or delete `backup_dir` to start anew. "
                f"Received: backup_dir={str(self.backup_dir)!r}, with the "
                f"epochs, from and to, at each replica: {told.tolist()}"
            )
        if epochs == 0:
            return
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.model.load_weights(self._path(epochs))
        _keras.begin_at(self.model, epochs)

    def on_epoch_end(self, epoch, logs=None):
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / "unfinished.weights.h5"
        self.model.save_weights(unfinished, overwrite=True)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, self._path(epoch + 1))
        for old in self._backups()[:-_KEPT]:
            self._path(old).unlink()

    def on_train_end(self, logs=None):
        # A later `fit` of this model starts where it is told.
        _keras.begin_at(self.model, None)
        if self.delete_checkpoint:
            _workers.told_by_all(self.model, [0])
            shutil.rmtree(self._folder, ignore_errors=True)
            # The last worker to leave takes the directory with it.
            with contextlib.suppress(OSError):
                self.backup_dir.rmdir()
