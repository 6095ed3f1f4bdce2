"""`TrajectoryRecorder`: what it records and leaves."""

import keras
import numpy as np
import pytest

from keras_lwsam import analysis, callbacks
from tests.support import (
    assert_equal,
    weights_of,
)
from tests.watched import Weights, X, Y, fit, small


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def files(*numbers):
    return [f"weights_{number:06d}.npz" for number in numbers]


def arrays_in(path):
    with np.load(path) as data:
        return [data[f"{i}"] for i in range(len(data.files))]


@pytest.mark.parametrize(
    "wrap", [True, pytest.param(False, marks=pytest.mark.exhaustive)]
)
def test_weights_of_every_epoch_are_recorded(wrap, tmp_path):
    weights = Weights()
    recorder = callbacks.TrajectoryRecorder(tmp_path / "a" / "b")
    model, _ = fit(weights, recorder, model=small(wrap), epochs=3)
    assert names(tmp_path / "a" / "b") == files(0, 1, 2, 3)
    trajectory = analysis.TrajectoryPlane(str(tmp_path / "a" / "b")).trajectory
    for epoch in range(-1, 3):
        assert_equal(trajectory[epoch + 1], weights.kept[epoch])
    found = analysis.loss_landscape(
        model,
        X,
        Y,
        directions=analysis.TrajectoryPlane(tmp_path / "a" / "b"),
        num_points=2,
        verbose=0,
    )
    assert found.path_labels == ("0", "1", "2", "3")
    np.testing.assert_allclose(found.path[3:], 0.0, atol=1e-6)


def test_every_second_epoch(tmp_path):
    fit(callbacks.TrajectoryRecorder(tmp_path, every=2), epochs=5)
    assert names(tmp_path) == files(0, 2, 4)


def test_training_that_goes_on_keeps_what_was_before(tmp_path):
    recorder = callbacks.TrajectoryRecorder(tmp_path)
    model, _ = fit(recorder, epochs=4)
    before = {name: arrays_in(tmp_path / name) for name in names(tmp_path)}
    model.set_weights([np.zeros_like(w) for w in weights_of(model)])
    fit(recorder, model=model, epochs=3, initial_epoch=2)
    assert names(tmp_path) == files(0, 1, 2, 3)
    for name in files(0, 1):
        assert_equal(arrays_in(tmp_path / name), before[name])
    assert not np.any(arrays_in(tmp_path / files(2)[0])[0])
    # From the start again, nothing stays.
    fit(recorder, model=model, epochs=1)
    assert names(tmp_path) == files(0, 1)


def test_files_of_others_are_left_alone(tmp_path):
    others = ["weights_best.npz", "weights_5.npz", "weights_000001.h5"]
    for name in others:
        np.savez(tmp_path / "other.npz", np.ones(3))
        (tmp_path / "other.npz").rename(tmp_path / name)
    fit(callbacks.TrajectoryRecorder(tmp_path), epochs=1)
    assert names(tmp_path) == sorted([*others, *files(0, 1)])
    assert len(analysis.TrajectoryPlane(tmp_path).trajectory) == 2


def test_a_file_is_complete_or_not_there(tmp_path, monkeypatch):
    recorder = callbacks.TrajectoryRecorder(tmp_path)
    write = np.savez

    def fail_at_last(file, **arrays):
        write(file, **arrays)
        if np.any(arrays["0"] != first):
            raise OSError("No space left on device")

    model = small()
    first = weights_of(model)[0]
    monkeypatch.setattr(np, "savez", fail_at_last)
    with pytest.raises(OSError, match="No space left"):
        fit(recorder, model=model)
    found = [path for path in names(tmp_path) if path.startswith("weights")]
    assert found == files(0)
    assert_equal(arrays_in(tmp_path / found[0])[:1], [first])


def test_weights_of_16_bits(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = small()
    keras.config.set_dtype_policy("float32")
    weights = Weights()
    fit(weights, callbacks.TrajectoryRecorder(tmp_path), model=model)
    plane = analysis.TrajectoryPlane(tmp_path)
    for epoch in range(-1, 2):
        for ours, theirs in zip(
            plane.trajectory[epoch + 1], weights.kept[epoch], strict=True
        ):
            np.testing.assert_array_equal(
                np.asarray(ours, "float32"), theirs.astype("float32")
            )
    found = analysis.loss_landscape(
        model, X, Y, directions=plane, num_points=2, verbose=0
    )
    assert np.isfinite(found.losses).all()


def test_bad_arguments_of_the_recorder(tmp_path):
    with pytest.raises(TypeError, match="`directory` must be"):
        callbacks.TrajectoryRecorder(None)
    with pytest.raises(TypeError, match="`directory` must be"):
        callbacks.TrajectoryRecorder(3)
    with pytest.raises(ValueError, match="`every` must be"):
        callbacks.TrajectoryRecorder(tmp_path, every=0)
    with pytest.raises(TypeError, match="`every` must be"):
        callbacks.TrajectoryRecorder(tmp_path, every=1.5)
