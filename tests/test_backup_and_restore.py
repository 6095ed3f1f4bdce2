"""`callbacks.BackupAndRestore` on one machine. test_workers.py has two."""

import keras
import numpy as np
import pytest

from keras_lwsam import _workers, callbacks
from tests.support import (
    assert_equal,
    build_dense,
    dense_network,
    momentum_sgd,
    weights_of,
)

X = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 32)
EAGER = {"run_eagerly": True}


def fit(model, epochs, *watchers, **options):
    return model.fit(
        X,
        Y,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(watchers),
        **options,
    )


def stop_in(epoch):
    def stop(current, logs):
        if current == epoch:
            raise RuntimeError("stopped")

    return keras.callbacks.LambdaCallback(on_epoch_begin=stop)


def names(folder):
    return sorted(path.name for path in folder.rglob("*.h5"))


def test_goes_on_bit_for_bit(tmp_path):
    whole, part = (build_dense("vasso", mode=EAGER) for _ in range(2))
    fit(whole, 4)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(part, 4, callbacks.BackupAndRestore(tmp_path), stop_in(3))
    assert names(tmp_path) == [
        "epoch_00002.weights.h5",
        "epoch_00003.weights.h5",
    ]
    again = build_dense("vasso", mode=EAGER)
    again.model.set_weights([w + 1.0 for w in again.model.get_weights()])
    history = fit(again, 4, callbacks.BackupAndRestore(tmp_path))
    assert history.epoch == [3]
    assert_equal(weights_of(again), weights_of(whole))
    for ours, theirs in zip(
        again.optimizer.variables, whole.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_backups_are_deleted_when_training_ends(tmp_path):
    folder = tmp_path / "new" / "backup"
    fit(build_dense(mode=EAGER), 2, callbacks.BackupAndRestore(folder))
    assert folder.parent.exists()
    assert not folder.exists()


def test_other_files_stay(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    fit(build_dense(mode=EAGER), 2, callbacks.BackupAndRestore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_backups_may_be_kept(tmp_path):
    model = build_dense(mode=EAGER)
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(model, 2, backup)
    assert fit(model, 3, backup).epoch == [2]
    # What was restored is no start for a later `fit`.
    assert fit(model, 1).epoch == [0]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_file_that_was_being_written_is_no_backup(epochs, tmp_path):
    model = build_dense(mode=EAGER)
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(model, epochs, backup)
    for name in ("unfinished.weights.h5", "epoch_9.weights.h5.part"):
        (tmp_path / "worker_0" / name).write_text("half of it")
    assert fit(model, 3, backup).epoch == list(range(epochs, 3))


def test_an_exception_after_a_restoration_leaves_no_trace(tmp_path):
    model = build_dense(mode=EAGER)
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(model, 1, backup)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(model, 3, backup, stop_in(1))
    assert fit(model, 1).epoch == [0]


def test_a_plain_model(tmp_path):
    model = dense_network()
    model.compile(
        momentum_sgd(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    fit(model, 2, backup)
    assert fit(model, 3, backup).epoch == [2]


def told(monkeypatch, *epochs):
    """Lets there be another worker, with backups from one epoch to another."""

    def tell(model, numbers):
        return np.array([numbers, epochs if len(numbers) == 2 else numbers])

    monkeypatch.setattr(_workers, "told_by_all", tell)


def test_workers_go_on_from_the_last_epoch_that_all_have(tmp_path, monkeypatch):
    backup = callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    model = build_dense(mode=EAGER)
    fit(model, 1, backup)
    first = weights_of(model.model)
    fit(model, 2, backup)
    assert_equal_not(weights_of(model.model), first)
    told(monkeypatch, 1, 1)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.append(weights_of(model.model))
    )
    assert fit(model, 2, backup, watch).epoch == [1]
    assert_equal(seen[0], first)


def assert_equal_not(actual, other):
    assert any((a != b).any() for a, b in zip(actual, other, strict=True))


def test_workers_without_a_backup_are_refused(tmp_path, monkeypatch):
    model = build_dense(mode=EAGER)
    before = weights_of(model)
    told(monkeypatch, 2, 3)
    with pytest.raises(RuntimeError, match=r"no epoch.*Received.*\[2, 3\]"):
        fit(model, 4, callbacks.BackupAndRestore(tmp_path))
    assert_equal(weights_of(model), before)


def test_workers_at_different_points_are_refused(monkeypatch):
    model = build_dense(mode=EAGER)

    def differently(model, numbers):
        return np.array([numbers, [n + 1 for n in numbers]])

    monkeypatch.setattr(_workers, "told_by_all", differently)
    with pytest.raises(RuntimeError, match=r"not at the same point.*Received"):
        fit(model, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"backup_dir": None}, TypeError),
        ({"backup_dir": 3}, TypeError),
        ({"backup_dir": ""}, ValueError),
        ({"backup_dir": "x", "delete_checkpoint": "no"}, TypeError),
    ],
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error, match="Received"):
        callbacks.BackupAndRestore(**arguments)


class Resolver:
    """What `MultiWorkerMirroredStrategy` knows of the cluster."""

    def __init__(self, task_type, task_id):
        self.task_type, self.task_id = task_type, task_id


def test_every_process_of_a_cluster_has_a_name_of_its_own(monkeypatch):
    """A chief has the number of the first worker."""
    model = build_dense(mode=EAGER)
    assert _workers.worker_name(model) == "worker_0"
    found = set()
    for task in (("chief", 0), ("worker", 0), ("worker", 1), (None, None)):
        strategy = type("Strategy", (), {"cluster_resolver": Resolver(*task)})
        fake = type("Model", (), {"_distribute_strategy": strategy})
        found.add(_workers.worker_name(fake))
    assert found == {"chief_0", "worker_0", "worker_1"}
