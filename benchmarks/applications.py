"""All networks of `keras.applications`: wrapped, trained for a step, saved.

Each in a process of its own, with random weights and small images. One step of
`fit` in graph mode on the last tenth of the layers must change weights of the
head and leave a finite loss; `model.save` and `load_model` must give back equal
predictions and the same selection; and the presets of `layers` are resolved.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLUMNS = (
    "network",
    "parameters",
    "layers",
    "selected",
    "loss",
    "saved_equal",
    "blocks",
    "head",
    "last_blocks_2_from",
    "normalization_layers",
    "error",
)
PRESETS = ("head", "last_blocks:2", "normalization")


def names():
    """The constructors of `keras.applications`."""
    import keras

    return [
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    ]


def resolved(network, preset):
    """The layer paths of a preset, or the reason why there are none."""
    from keras_lwsam import LWSAMModel

    try:
        return LWSAMModel(network, layers=preset).selected_layers
    except ValueError as error:
        return [f"refused: {str(error).split('.')[0]}"]


def check(name, size=75, classes=3):
    """One network; a row."""
    import keras
    import numpy as np

    from keras_lwsam import LWSAMModel, _layers

    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=classes
    )
    model = LWSAMModel(network, layers=0.1)
    # Keras's classifiers end in a softmax.
    # With two samples larger steps lead some networks to NaN.
    optimizer = keras.optimizers.SGD(1e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, size, size, 3)).astype("float32")
    y = generator.integers(0, classes, 2)
    head = network.layers[-1].get_weights() or model.get_weights()
    loss = model.fit(x, y, batch_size=2, verbose=0).history["loss"][0]
    after = network.layers[-1].get_weights() or model.get_weights()
    assert np.isfinite(loss), "the loss is not finite"
    assert any((a != b).any() for a, b in zip(head, after, strict=True))
    selected = model.selected_layers
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        expected = model.predict(x, verbose=0)
        loaded = keras.saving.load_model(path)
    equal = np.array_equal(loaded.predict(x, verbose=0), expected)
    equal = equal and loaded.selected_layers == selected
    blocks = {x.block for x in _layers.all_layers(network)} - {None}
    head, last, norms = (resolved(network, preset) for preset in PRESETS)
    return {
        "network": name,
        "parameters": network.count_params(),
        "layers": len(model.layer_paths),
        "selected": len(selected),
        "loss": f"{loss:.4f}",
        "saved_equal": equal,
        "blocks": len(blocks),
        "head": " ".join(head),
        "last_blocks_2_from": last[0],
        "normalization_layers": (
            0 if norms[0].startswith("refused") else len(norms)
        ),
    }


def in_process(name, minutes):
    """A row, from a process of its own; the reason if it fails."""
    command = [sys.executable, "-m", "benchmarks.applications", "--one", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60 * minutes
        )
    except subprocess.TimeoutExpired:
        return {"network": name, "error": f"not done in {minutes} minutes"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["killed"]
        return {"network": name, "error": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=False)
    parser.add_argument("--networks", nargs="*", help="default: all")
    parser.add_argument(
        "--minutes", type=float, default=15, help="for one network"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(check(args.one), default=str))
        return
    if args.out is None:
        parser.error("--out is needed")
    from benchmarks import environment

    results = args.out / "results.csv"
    rows = list(csv.DictReader(results.open())) if results.exists() else []
    done = {row["network"] for row in rows}
    for name in args.networks or names():
        if name in done:
            continue
        start = time.perf_counter()
        rows.append(in_process(name, args.minutes))
        print(f"{time.perf_counter() - start:.0f} s:", rows[-1], flush=True)
        environment.record(
            args.out, COLUMNS, rows, {"batch_size": 2, "image_size": 75}
        )


if __name__ == "__main__":
    main()
