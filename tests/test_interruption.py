"""Runs that are killed, and resumed in a new process, end as if they were not.

Bit for bit: weights, optimizer, the method's state, selection, norms, logs.
"""

import signal

import keras
import numpy as np
import pytest

from tests.interrupted import (
    EPOCHS,
    RUNS,
    STEPS,
    At,
    assert_same,
    everything,
    fit,
    go_on,
    in_process,
    make,
    stop,
    train,
    train_with_checkpoints,
)

SEED = 4


# A batch, a mask and a count that are remembered; and layers chosen again.
EVERY_DAY = {"sampa", "dynamic_sparse_sam", "ae_look_sam", "adaptive"}


def every_run(exhaustive):
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.exhaustive)
            if name in exhaustive
            else name
            for name in RUNS
        ],
    )


def end_of(folder):
    with np.load(folder / "end.npz") as arrays:
        return dict(arrays)


def uninterrupted(name, folder):
    train(name, folder, SEED)
    return end_of(folder)


@every_run(exhaustive=RUNS.keys() - EVERY_DAY)
def test_a_killed_run_goes_on_from_its_backup(name, tmp_path):
    """The second process draws other initial values, which must not matter.

    Where `fit` shuffles, the order is Keras's: the same in every epoch after
    the same `keras.utils.set_random_seed`, and not saved.
    """
    whole, part = tmp_path / "whole", tmp_path / "part"
    expected = uninterrupted(name, whole)
    assert in_process(train, name, part, SEED, (), 1) == -signal.SIGKILL
    assert not (part / "end.npz").exists()
    seed = SEED if RUNS[name].shuffle else SEED + 1
    assert in_process(train, name, part, seed) == 0
    assert_same(end_of(part), expected)
    log = (part / "log.csv").read_text()
    assert log == (whole / "log.csv").read_text()
    assert len(log.splitlines()) == 1 + EPOCHS


@every_run(exhaustive=RUNS.keys() - {"sampa"})
def test_a_killed_run_goes_on_from_any_checkpoint(name, tmp_path):
    """From the whole model in one file, at every end of an epoch."""
    expected = uninterrupted(name, tmp_path / "whole")
    code = in_process(train_with_checkpoints, name, tmp_path, SEED)
    assert code == -signal.SIGKILL
    for epoch in range(1, EPOCHS):
        path = tmp_path / f"{epoch}.keras"
        assert in_process(go_on, name, path, epoch) == 0
        with np.load(path.with_suffix(".npz")) as arrays:
            assert_same(dict(arrays), expected)
    assert not (tmp_path / f"{EPOCHS}.keras").exists()


def test_a_backup_amid_an_epoch_is_exact_and_the_epoch_begins_again(tmp_path):
    """Keras notes the epoch only, so data begin again at its first batch.

    So the resumed run is not the uninterrupted one, in plain Keras too. It is
    the run that was stopped at that step and whose epoch was begun again.
    """
    name = "sampa"
    code = in_process(train, name, tmp_path, SEED, (), 1, 1)
    assert code == -signal.SIGKILL
    assert in_process(train, name, tmp_path, SEED + 1, (), None, 1) == 0
    keras.utils.set_random_seed(SEED)
    model = make(RUNS[name])
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[At(1, 0, stop)])
    fit(model, initial_epoch=1)
    known = everything(model)
    assert_same(end_of(tmp_path), known)
    assert known["optimizer_0"] == STEPS * EPOCHS + 1
