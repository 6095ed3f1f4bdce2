"""What SGD, SAM and layer-wise SAM do to a network, in pictures.

Trains the same small convolutional network three times, from the same weights,
on the same batches, and watches: norms and perturbations of every layer,
sharpness, Hessian eigenvalues and trace while training; afterwards the loss
along random directions, in the plane of the training, and on the line from one
result to another. Everything is written to one directory, with a report of all
three runs, a page that opens in any browser.

Data: scikit-learn's handwritten digits, or any `.npz` file such as
Fashion-MNIST.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from small_task import (
    add_training_arguments,
    build_network,
    compiled,
    load,
    positive,
)

from keras_lwsam import LWSAMModel, analysis, callbacks, plots

# Folders, in the order of the report, and names in pictures.
WAYS = (
    ("1_sgd", "SGD"),
    ("2_sam", "SAM"),
    ("3_layer_wise_sam", "layer-wise SAM"),
)


def wrapped(name, network, args):
    """The network under one of the ways of training."""
    if name == "SGD":
        # That of `fit`, bit for bit, but it shows its gradients.
        return LWSAMModel(network, rho=0.0)
    layers = "all" if name == "SAM" else args.layers
    return LWSAMModel(network, args.method, rho=args.rho, layers=layers)


def train(folder, name, data, args):
    """Trains one network under watch; returns the model and its accuracy."""
    (x_train, y_train), (x_test, y_test) = data
    seen = slice(args.samples)
    keras.utils.set_random_seed(args.seed)
    network = build_network(x_train.shape[1:], int(y_train.max()) + 1)
    model = compiled(wrapped(name, network, args), args.learning_rate)
    every = -(-args.epochs // args.measurements)
    print(f"{name}:", flush=True)
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=(x_test, y_test),
        verbose=2,
        callbacks=[
            callbacks.RunRecorder(folder, name),
            callbacks.LayerNormTracker(csv_path=folder / "layer_norms.csv"),
            callbacks.SharpnessTracker(
                x_train[seen],
                y_train[seen],
                num_eigenvalues=args.eigenvalues,
                per_layer=True,
                before_training=True,
                epochs=range(every - 1, args.epochs, every),
                batch_size=256,
                csv_path=folder / "sharpness.csv",
            ),
            callbacks.TrajectoryRecorder(folder / "weights"),
        ],
    )
    return model, model.evaluate(x_test, y_test, verbose=0, return_dict=True)


def look(folder, model, data, args, line=None):
    """Computes the landscapes around the weights that training ended with."""
    (x_train, y_train), _ = data
    seen = slice(args.samples)
    objective = analysis.Objective(
        model, x_train[seen], y_train[seen], batch_size=256
    )
    wanted = {
        "random_plane": analysis.RandomDirections(2, args.seed),
        "training_plane": analysis.TrajectoryPlane(folder / "weights"),
    }
    if line is not None:
        wanted["line_from_sgd"] = analysis.LineTo(line)
    for name, directions in wanted.items():
        print(f"{folder.name}: {name}", flush=True)
        landscape = analysis.loss_landscape(
            objective,
            directions=directions,
            num_points=args.points,
            verbose=int(sys.stdout.isatty()),
        )
        landscape.save(folder / f"{name}.npz")


def draw(out):
    """Writes some of the pictures of the report as files of their own."""
    runs = {name: plots.read_run(out / folder) for folder, name in WAYS}
    last = runs["layer-wise SAM"]
    figures = {
        "comparison": plots.comparison(runs),
        "layers": plots.layer_norms(last.layer_norms),
        "spectrum": plots.eigenvalue_spectrum(last.sharpness),
        "training_plane": plots.landscape(last.landscapes["training_plane"]),
        "random_plane": plots.surface(last.landscapes["random_plane"]),
        "line_from_sgd": plots.landscape(last.landscapes["line_from_sgd"]),
    }
    folder = out / "pictures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    return folder


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_training_arguments(parser, epochs=12, batch_size=64)
    options = (
        ("--images", 60000, "training images, the first so many"),
        ("--samples", 256, "of those, on how many sharpness is measured"),
        ("--measurements", 6, "how often at most, besides before training"),
        ("--eigenvalues", 3, "number of Hessian eigenvalues"),
        ("--points", 21, "points on each axis of a landscape"),
    )
    for name, default, text in options:
        parser.add_argument(
            name, type=positive, default=default, help=f"{text} (%(default)s)"
        )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/see_sharpness"),
        help="directory for all of it (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Trains, looks, and writes the report."""
    args = parse(arguments)
    (x_train, y_train), test = load(args.data)
    data = (x_train[: args.images], y_train[: args.images]), test
    results, first = {}, None
    for folder_name, name in WAYS:
        folder = args.out / folder_name
        model, results[name] = train(folder, name, data, args)
        look(folder, model, data, args, line=first)
        first = first or model
    print(f"\n{'':16}{'test accuracy':>14}{'test loss':>11}")
    for name, result in results.items():
        print(f"{name:16}{result['accuracy']:>14.2%}{result['loss']:>11.3f}")
    print(f"\nPictures: {draw(args.out)}")
    print(f"The report: {plots.report(args.out)}")


if __name__ == "__main__":
    main()
