"""A tiny example, made as the big ones are, and data for those.

`python -m tests.examples_offline OPTION...` runs it, as a worker may.
"""

import json
import sys

import keras
import numpy as np
import pipelines
import recipe
from sklearn.datasets import load_digits


def write_digits(path, train=48, test=32):
    """Some of scikit-learn's digits, as an npz file; returns its path."""
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8).astype("uint8")
    parts = {"train": slice(train), "test": slice(train, train + test)}
    arrays = {f"x_{name}": x[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"y_{n}": y[part] for n, part in parts.items()})
    return str(path)


def parse(arguments):
    """The command line of the tiny example."""
    parser = recipe.parser(
        "A tiny example.",
        "tiny",
        reference={
            "epochs": 90,
            "batch_size": 256,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "rho": 0.07,
        },
        offline={"epochs": 2, "batch_size": 64},
    )
    return recipe.parse(parser, list(map(str, arguments)))


def load(args):
    """Standardized digits, shifted."""
    return pipelines.batches(
        args,
        pipelines.standardized(pipelines.images(args, "cifar10")),
        augment=pipelines.crop_and_flip(args),
    )


def build(args, data):
    """A network of two layers, with dropout."""
    network = keras.Sequential(
        [
            keras.Input(data.input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(data.classes, dtype="float32", name="logits"),
        ],
        name="tiny",
    )
    return recipe.decay_weights(network, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data, nesterov=True),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def main(arguments):
    """Trains, tests, and writes the results."""
    return recipe.run(parse(arguments), load, build, settings)


def run(output, *arguments, eager=True):
    """Runs the tiny example offline; returns what results.json says.

    Eagerly, which saves tracing, or as it is.
    """
    known = ["--offline", "--layers", "logits", "--output", output]
    args = parse([*known, *arguments])

    def compiled(*task):
        return {**settings(*task), "run_eagerly": eager}

    returned = recipe.run(args, load, build, compiled)
    results = json.loads((output / "results.json").read_text())
    assert results == returned
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
