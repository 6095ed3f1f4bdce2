"""What the examples of the literature share: options, training, results.

An example says in its module docstring where its numbers come from, and then

    def parse(arguments=None):
        parser = recipe.parser(__doc__, "name_of_the_example",
            reference={"epochs": 200, "batch_size": 128, ...},  # the paper's
            offline={"epochs": 10, ...})  # where they differ with --offline
        parser.add_argument(...)  # options of its own
        return recipe.parse(parser, arguments)

    def load(args): return pipelines.batches(...)  # or pipelines.Data(...)
    def build(args, data): return network  # a built keras.Model
    def settings(args, data): return {"optimizer": ..., "loss": ...}

    def main(arguments=None):
        return recipe.run(parse(arguments), load, build, settings)

`run` calls the three, `build` and `settings` under the strategy. `load` may
use TensorFlow: the strategy exists by then. Until then nothing may compute.

`args` has the options below; `args.offline` is `None`, the path of a file, or
"" for what needs no file; `args.small` is set by `--offline` unless
`--no-small` is given; an `args.rho` of `None` is the method's own.

The directory `--output` then holds results.json, network.keras (the trained
network), history.csv, run.json and layer_norms.csv (`keras-lwsam report`
draws them), arguments.json, backup/ and tensorboard/.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import mirrored
import tensorflow as tf
from small_task import layers_argument, positive

from keras_lwsam import LWSAMModel, callbacks, methods, selection

# What a later call may change when it goes on with a run.
CHANGEABLE = ("data_dir", "epochs", "output", "resume", "tensorboard")


def parser(description, name, reference, offline=None):
    """The options of every example.

    Args:
        description: Text for `--help`.
        name: Of the example, for the default of `--output`.
        reference: Dict of the defaults: `epochs`, `batch_size`,
            `learning_rate`, `weight_decay`, and `rho`, of the method "sam".
        offline: Dict of those that are others with `--offline`.
    """
    offline = {**reference, **(offline or {})}
    result = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.set_defaults(example=name, defaults=(reference, offline))

    add, two_ways = result.add_argument, argparse.BooleanOptionalAction
    add(
        "--method",
        default="sam",
        help="name of a method of keras_lwsam.methods, or 'none' (%(default)s)",
    )
    add(
        "--layers",
        type=layers_argument,
        help="which layers are perturbed: a number of layers, a share such as "
        "0.25, 'all', 'head', 'last_blocks:2', or a layer path (default: the "
        "library's)",
    )
    for key, kind, text in (
        ("rho", float, "radius; of other methods than 'sam', their own"),
        ("epochs", positive, "passes over the data, all runs together"),
        ("batch_size", positive, "examples in a step, of all replicas"),
        ("learning_rate", float, "the largest of the schedule"),
        ("weight_decay", float, "see above"),
    ):
        shown = f"{reference[key]:g}"
        if offline[key] != reference[key]:
            shown += f"; with --offline {offline[key]:g}"
        flag = f"--{key.replace('_', '-')}"
        add(flag, type=kind, help=f"{text} ({shown})")
    add("--seed", type=int, default=0, help="of weights and draws (0)")
    add("--limit", type=positive, help="train on the first so many examples")
    add(
        "--strategy",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="train on one device, on those of this machine, or on the workers "
        "of TF_CONFIG (%(default)s)",
    )
    add(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        default="float32",
        help="Keras dtype policy (%(default)s)",
    )
    add("--data-dir", help="where tensorflow-datasets keeps its data")
    add(
        "--offline",
        nargs="?",
        const="",
        metavar="PATH",
        help="download nothing: train on this file, or without PATH on what "
        "comes with the packages",
    )
    add(
        "--small",
        action=two_ways,
        help="a small network of the same kind, randomly initialised "
        "(default: with --offline)",
    )
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs") / name,
        help="directory of the run (%(default)s)",
    )
    add(
        "--resume",
        action=two_ways,
        default=True,
        help="go on with the run in --output; a larger --epochs prolongs it",
    )
    add("--tensorboard", action="store_true", help="write scalars for it")
    return result


def parse(parser, arguments=None):
    """The command line, with defaults filled in and checked."""
    args = parser.parse_args(arguments)
    reference, offline = args.defaults
    del args.defaults
    if args.small is None:
        args.small = args.offline is not None
    rho_is_default = args.rho is None
    for key, value in (reference if args.offline is None else offline).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    if args.offline and not pathlib.Path(args.offline).is_file():
        parser.error(f"--offline: there is no file {args.offline}")
    if args.method == "none":
        args.rho = 0.0
        return args
    if rho_is_default and args.method != "sam":
        args.rho = None
    try:
        methods.get(args.method, args.rho)
        selection.get(args.layers)
    except ValueError as error:
        parser.error(str(error))
    return args


def sgd(args, data, warmup=0, **arguments):
    """SGD with momentum 0.9, and a cosine schedule over all epochs.

    Args:
        args, data: The command line and the data.
        warmup: Epochs of linear rise, at most a tenth of all.
        **arguments: Further arguments of `keras.optimizers.SGD`.
    """
    warmup_steps = min(warmup, args.epochs // 10) * data.steps
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else args.learning_rate,
        args.epochs * data.steps - warmup_steps,
        warmup_target=args.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    return keras.optimizers.SGD(schedule, momentum=0.9, **arguments)


def decay_weights(network, amount):
    """Adds the penalty `amount / 2 * ||w||^2` of all weights to the loss.

    That is the weight decay of SGD in the papers: `amount * w` in the gradient,
    so in every gradient of a step, and in the momentum. The `weight_decay` of
    Keras's optimizers is another one: it shrinks the weights beside the
    gradient, which with momentum 0.9 is about a tenth as much.
    """
    if amount:
        for variable in network.trainable_variables:
            variable.regularizer = keras.regularizers.L2(amount / 2)
    return network


def start(name):
    """The strategy of that name, and whether this process speaks for it."""
    if name == "none":
        return tf.distribute.get_strategy(), True
    if name == "mirrored":
        return mirrored.mirror(mirrored.find_devices("all")), True
    if "TF_CONFIG" not in os.environ:
        sys.exit(
            "--strategy multiworker: the environment variable TF_CONFIG must "
            "describe the workers (see tf.distribute.MultiWorkerMirrored"
            "Strategy); each is started with its own."
        )
    # Before anything else touches TensorFlow: it meets the other workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cluster = strategy.cluster_resolver
    has_chief = "chief" in cluster.cluster_spec().jobs
    return strategy, cluster.task_type == "chief" or (
        cluster.task_id == 0 and not has_chief
    )


def write_json(path, content):
    """Writes a file that is there complete or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def plain(args):
    """The command line as JSON has it."""
    return {
        key: str(value) if isinstance(value, pathlib.Path) else value
        for key, value in vars(args).items()
    }


def claim(args, is_first):
    """Takes the output directory, for a new run or to go on with one."""
    path, now = args.output / "arguments.json", plain(args)
    if not args.resume:
        for name in ("backup", "tensorboard"):
            shutil.rmtree(args.output / name, ignore_errors=True)
    elif path.exists() and (args.output / "backup").exists():
        before = json.loads(path.read_text())
        other = [
            f"{key}: {before.get(key)!r} before, {value!r} now"
            for key, value in now.items()
            if key not in CHANGEABLE and before.get(key) != value
        ]
        if args.epochs < before["epochs"]:
            other.append(
                f"epochs: {before['epochs']} before, {args.epochs} now"
            )
        if other:
            sys.exit(
                f"{args.output} holds a run with other arguments "
                f"({'; '.join(other)}). Give the same ones to go on with it, "
                "another --output, or --no-resume to replace it."
            )
    if is_first:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(path, now)


class EpochScalars(keras.callbacks.Callback):
    """Logs of each epoch for TensorBoard, which need not be installed here."""

    def __init__(self, log_dir):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(log_dir))
        self.metadata = tf.compat.v1.SummaryMetadata()
        self.metadata.plugin_data.plugin_name = "scalars"

    def on_epoch_end(self, epoch, logs=None):
        with self.writer.as_default(step=epoch):
            for name, value in (logs or {}).items():
                value = tf.constant(float(value))
                tf.summary.write(f"epoch/{name}", value, metadata=self.metadata)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


def watchers(args, data, is_first):
    """The callbacks; those that read the model are on every worker."""
    boards = args.output / "tensorboard"
    writes = is_first and args.tensorboard
    found = [
        callbacks.LayerNormTracker(
            csv_path=args.output / "layer_norms.csv" if is_first else None,
            log_dir=boards if writes else None,
        )
    ]
    if data.clock is not None:
        found.append(data.clock)
    if is_first:
        found.append(callbacks.RunRecorder(args.output))
    if writes:
        found.append(EpochScalars(boards))
    # Last: an epoch that is backed up is written down already.
    backup = callbacks.BackupAndRestore(
        args.output / "backup", delete_checkpoint=False
    )
    return [*found, backup]


def history(path):
    """The columns of history.csv: the logs of all epochs, by name."""
    rows = [*csv.DictReader(path.read_text().splitlines())]
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def versions():
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in ("keras-lwsam", "keras", "tensorflow", "keras-hub", "keras-cv"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def wrapped(args, network):
    """The network, to be trained by the method that was asked for."""
    if args.method == "none":
        # A step is that of `fit`, bit for bit.
        return LWSAMModel(network, rho=0.0)
    try:
        return LWSAMModel(network, args.method, args.rho, args.layers)
    except ValueError as error:
        sys.exit(str(error))


def run(args, load, build, settings):
    """Trains, tests, and writes the results.

    Args:
        args: The command line, from `parse`.
        load: Function of `args`, returns `Data`.
        build: Function of `args` and the data, returns the network.
        settings: Function of `args` and the data, returns the arguments of
            `compile`.

    Returns:
        The content of results.json, a dict.
    """
    strategy, is_first = start(args.strategy)
    claim(args, is_first)
    keras.utils.set_random_seed(args.seed)
    data = load(args)
    # Not before: data are prepared in single precision.
    keras.config.set_dtype_policy(args.precision)
    with strategy.scope():
        network = build(args, data)
        model = wrapped(args, network)
        model.compile(**settings(args, data))
    say = print if is_first else lambda *_: None
    parameters = network.count_params()
    say(f"{args.example}: {data.summary}")
    say(f"{network.name}: {parameters:,} parameters, {args.output}")
    progress = 1 if sys.stdout.isatty() else 2
    started = time.perf_counter()
    fit = model.fit(
        data.train,
        epochs=args.epochs,
        validation_data=data.test,
        callbacks=watchers(args, data, is_first),
        # The batches are shuffled already.
        shuffle=False,
        verbose=progress if is_first else 0,
    )
    seconds = time.perf_counter() - started
    # All workers take part in what reads or counts; one writes.
    test = model.evaluate(data.test, verbose=0, return_dict=True)
    plain_step = model.method.is_plain
    results = {
        "example": args.example,
        "arguments": plain(args),
        "data": data.summary,
        "network": {"name": network.name, "parameters": parameters},
        "method": None if plain_step else repr(model.method),
        "layers": len(model.layer_paths),
        "selected_layers": [] if plain_step else model.selected_layers,
        "replicas": strategy.num_replicas_in_sync,
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "versions": versions(),
        "test": {name: float(value) for name, value in test.items()},
        "epochs_of_this_call": len(fit.epoch),
        "seconds_of_this_call": round(seconds, 1),
    }
    if is_first:
        results["history"] = history(args.output / "history.csv")
        network.save(args.output / "network.keras")
        write_json(args.output / "results.json", results)
        shown = ", ".join(f"{k} {v:.4f}" for k, v in results["test"].items())
        say(f"Test: {shown}; {args.output / 'results.json'}")
    return results
