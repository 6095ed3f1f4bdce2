"""One run of a study, and the file that it ends up in."""

import argparse
import csv
import itertools
import pathlib
import time

import keras
import numpy as np

from keras_lwsam import LWSAMModel, analysis

# Of the training data, for what is measured at the end of a run.
SEEN = 1_000
# Of these, for the Hessian.
CURVED = 500

COLUMNS = (
    "task",
    "phase",
    "way",
    "rho",
    "learning_rate",
    "seed",
    "epochs",
    "accuracy",
    "loss",
    "train_accuracy",
    "train_loss",
    "gradient_norm",
    "eigenvalue",
    "traces",
    "selections",
    "seconds",
)
KEY = COLUMNS[:7]


def parser(description, subject, choices, seeds):
    """The command line of a study.

    Args:
        description: Text for `--help`.
        subject: What is studied, the name of an option.
        choices: What may be studied; the default is all of it.
        seeds: Default of `--seeds`.
    """
    result = argparse.ArgumentParser(description=description)
    result.add_argument(
        "--data",
        required=True,
        help="folder of fashion_mnist.npz and banking77_{train,test}.csv",
    )
    result.add_argument("--out", type=pathlib.Path, required=True)
    result.add_argument("--seeds", type=int, default=seeds)
    result.add_argument(
        f"--{subject}", nargs="+", choices=choices, default=choices
    )
    return result


class Results:
    """Rows in a CSV file, each written when it is known; a run goes on there.

    Args:
        path: A `pathlib.Path`, made if it is missing.
        columns: Names of the columns.
    """

    def __init__(self, path, columns=COLUMNS):
        self._path = path
        self._columns = columns
        self.rows = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise ValueError(
                    f"{path} is of another study: expected the columns "
                    f"{columns}. Received: {reader.fieldnames}"
                )
        else:
            self._write(dict(zip(columns, columns, strict=True)))

    def find(self, **key):
        """Rows of these values, which may be of any type."""
        key = {name: str(value) for name, value in key.items()}
        return [row for row in self.rows if key.items() <= row.items()]

    def add(self, row):
        """Appends a dict."""
        row = {name: str(value) for name, value in row.items()}
        self.rows.append(row)
        self._write(row)

    def _write(self, row):
        # Appended, as another process may have written rows of other tasks.
        with open(self._path, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)


class _Selections(keras.callbacks.Callback):
    """Notes the layers perturbed in each epoch, by their positions."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        if isinstance(self.model, LWSAMModel):
            paths, chosen = self.model.layer_paths, self.model.selected_layers
            self.epochs.append(tuple(paths.index(path) for path in chosen))

    def text(self):
        """Epochs of the same layers together: `2*0 4;8*3 4`."""
        return ";".join(
            f"{len([*epochs])}*{' '.join(map(str, layers))}"
            for layers, epochs in itertools.groupby(self.epochs)
        )


def selections_of(row):
    """Pairs of a number of epochs, and the positions perturbed in them."""
    parts = [part.partition("*") for part in row["selections"].split(";")]
    return [
        (int(count), tuple(map(int, positions.split())))
        for count, _, positions in parts
        if count
    ]


def compiled(task, way, rho, learning_rate, seed, steps):
    """A model, ready to train.

    Args:
        task: A `tasks.Task`.
        way: Function of a network and a radius to an `LWSAMModel`; `None`: the
            network by itself.
        rho: Radius, or `None`.
        learning_rate: At its highest.
        seed: Of weights, order of the data, and dropout.
        steps: Number of steps.
    """
    keras.utils.set_random_seed(seed)
    network = task.build(task.classes)
    model = network if way is None else way(network, rho)
    model.compile(
        task.optimizer(learning_rate, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(
    task,
    data,
    way,
    rho,
    learning_rate,
    seed,
    epochs,
    on="test",
    measures=(),
):
    """One training run, as a dict of results.

    Args:
        task: As of `compiled`, and so `way` to `seed`.
        data: `tasks.Splits`.
        epochs: Number of epochs.
        on: Name of the split that accuracy and loss are those of.
        measures: Functions of the trained model, inputs and labels to a dict
            of further results, given part of the training data.
    """
    start = time.perf_counter()
    x, y = data.train
    steps = epochs * -(-len(x) // task.batch_size)
    model = compiled(task, way, rho, learning_rate, seed, steps)
    selections = _Selections()
    model.fit(
        x,
        y,
        batch_size=task.batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[selections],
    )
    scores = _evaluate(model, *getattr(data, on))
    result = {
        "accuracy": round(scores["accuracy"], 5),
        "loss": round(scores["loss"], 5),
        "traces": getattr(model, "trace_count", 1),
        "selections": selections.text(),
    }
    for measure in measures:
        result |= measure(model, x[:SEEN], y[:SEEN])
    keras.utils.clear_session(free_memory=True)
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def _evaluate(model, x, y):
    return model.evaluate(x, y, batch_size=500, verbose=0, return_dict=True)


def flatness(model, x, y):
    """Loss, norm of its gradient, largest eigenvalue of its Hessian."""
    scores = _evaluate(model, x, y)
    result = {
        "train_accuracy": round(scores["accuracy"], 5),
        "train_loss": round(scores["loss"], 6),
        "gradient_norm": "",
        "eigenvalue": "",
    }
    if not np.isfinite(scores["loss"]):
        return result
    objective = analysis.Objective(model, x, y, batch_size=CURVED)
    gradient_norm = float(np.linalg.norm(objective.gradient()))
    few = analysis.Objective(model, x[:CURVED], y[:CURVED], batch_size=CURVED)
    (eigenvalue,) = analysis.hessian_eigenvalues(few, tol=0.02)
    return result | {
        "gradient_norm": float(f"{gradient_norm:.4g}"),
        "eigenvalue": float(f"{eigenvalue:.4g}"),
    }


def batch_gradients(model, x, y, batch_size=64):
    """Mean norm of the gradients of single batches, as in training."""
    import tensorflow as tf

    network = getattr(model, "model", model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = [weight.value for weight in network.trainable_variables]

    @tf.function
    def norm(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, network(x, training=True))
        gradients = tape.gradient(value, variables)
        # The slices of an embedding may name a row more than once.
        return tf.linalg.global_norm(
            [tf.convert_to_tensor(gradient) for gradient in gradients]
        )

    whole = len(x) - len(x) % batch_size
    norms = [
        float(norm(x[i : i + batch_size], y[i : i + batch_size]))
        for i in range(0, whole, batch_size)
    ]
    return {"batch_gradient_norm": float(f"{np.mean(norms):.4g}")}


def single_threaded():
    """Lets the process compute on one core, so that several run side by side.

    To be called before TensorFlow has computed anything.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
