"""Where the numbers of `SharpnessTracker` go: files, TensorBoard, logs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import callbacks
from tests.watched import (
    FEW,
    LITTLE,
    PATHS,
    fit,
    read,
    tracking,
)


def as_numbers(rows):
    return [
        {k: v if k == "layer" else float(v) for k, v in row.items()}
        for row in rows
    ]


def test_files_hold_what_history_holds(tmp_path):
    path = tmp_path / "sharp.csv"
    tracker = tracking(
        **FEW,
        num_eigenvalues=0,
        per_layer=True,
        before_training=True,
        csv_path=path,
    )
    fit(tracker)
    assert as_numbers(read(path)) == tracker.history
    layers = tmp_path / "sharp_layers.csv"
    assert as_numbers(read(layers)) == tracker.layer_history
    # A second training begins anew.
    fit(tracker, epochs=1)
    assert [row["epoch"] for row in read(path)] == ["-1", "0"]


def test_files_go_on_with_the_training(tmp_path):
    path = tmp_path / "sharp.csv"
    tracker = tracking(
        **LITTLE, per_layer=True, before_training=True, csv_path=path
    )
    model, _ = fit(tracker, epochs=3)
    before = read(path)
    with open(path, "a") as file:
        file.write("3,0.")
    fit(tracker, model=model, epochs=4, initial_epoch=2)
    after = read(path)
    assert [row["epoch"] for row in after] == ["-1", "0", "1", "2", "3"]
    assert after[:3] == before[:3]
    layers = read(tmp_path / "sharp_layers.csv")
    assert [row["epoch"] for row in layers[::2]] == ["-1", "0", "1", "2", "3"]
    assert [row["layer"] for row in layers] == PATHS * 5


def test_tensorboard_scalars(tmp_path):
    tracker = tracking(
        per_layer=True,
        before_training=True,
        num_noise_samples=2,
        num_trace_samples=1,
        num_eigenvalues=2,
        log_dir=tmp_path,
    )
    fit(tracker, epochs=1)
    scalars = {}
    for file in tmp_path.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                scalars.setdefault(value.tag, {})[event.step] = number
    tags = {
        "sharpness/sam": "sharpness",
        "sharpness/average": "average_sharpness",
        "sharpness/average_error": "average_sharpness_error",
        "hessian/trace": "trace",
        # The error of a single draw is not known, and has no scalar.
        "hessian/eigenvalue_1": "eigenvalue_1",
        "hessian/eigenvalue_2": "eigenvalue_2",
    }
    suffixes = ["", *(f"/{path}" for path in PATHS)]
    assert set(scalars) == {tag + suffix for tag in tags for suffix in suffixes}
    for row in [*tracker.history, *tracker.layer_history]:
        suffix = f"/{row['layer']}" if "layer" in row else ""
        for tag, column in tags.items():
            written = scalars[tag + suffix][row["epoch"]]
            assert written == np.float32(row[column])


def test_other_loggers_see_it(tmp_path):
    """NaN in the epochs that are not measured."""
    tracker = tracking(
        epochs=2,
        num_noise_samples=2,
        num_trace_samples=0,
        add_to_logs=True,
        per_layer=True,
    )
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    _, history = fit(tracker, logger, epochs=4)
    names = {
        "sharpness/sam": "sharpness",
        "sharpness/average": "average_sharpness",
        "sharpness/average_error": "average_sharpness_error",
        "hessian/eigenvalue_1": "eigenvalue_1",
    }
    added = {name for name in history if "/" in name}
    assert added == set(names)
    rows = read(tmp_path / "log.csv")
    for name, column in names.items():
        expected = [np.nan, np.nan, np.nan, np.nan]
        expected[1], expected[3] = (row[column] for row in tracker.history)
        np.testing.assert_array_equal(history[name], expected)
        logged = [float(row[name]) for row in rows]
        np.testing.assert_allclose(logged, expected, rtol=1e-12)


def test_logs_are_left_alone_unless_asked():
    _, history = fit(tracking(**LITTLE))
    assert not [name for name in history if "/" in name]


@pytest.mark.tensorflow
def test_what_has_no_second_derivative_is_told_before_the_first_epoch():
    network = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(1, 2),
            keras.layers.Resizing(2, 2, interpolation="bicubic"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    network.compile("sgd", "mse")
    x, y = np.ones((4, 4, 4, 1)), np.zeros((4, 1))
    begun = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(epoch)
    )
    tracker = callbacks.SharpnessTracker(x, y)
    with pytest.raises(ValueError, match="no second derivative"):
        network.fit(x, y, verbose=0, callbacks=[tracker, watch])
    assert begun == []
    plain = callbacks.SharpnessTracker(
        x, y, num_eigenvalues=0, num_trace_samples=0
    )
    network.fit(x, y, verbose=0, callbacks=[plain])
    assert np.isfinite(plain.history[0]["sharpness"])
