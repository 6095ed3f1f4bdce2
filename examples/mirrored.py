"""Sharpness-aware training on several devices of one machine, by `fit`.

Trains a small network twice from the same weights, on one device and on all of
them under `tf.distribute.MirroredStrategy`, and prints how far the weights have
come apart. With `--sync` (the default) all replicas climb the gradient of the
whole batch and the two runs agree up to rounding, which training amplifies
(`--policy float64` shows that it is nothing else); with `--no-sync` each climbs
its own, as in the SAM paper, and the runs differ. The network has no BatchNorm,
whose statistics are each replica's own, and no batch is a smaller one.

Without GPUs the devices are logical ones of the processor: that shows that
training is the same, not that it is faster.
"""

import argparse
import functools
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from small_task import add_training_arguments, build_network, compiled, load

from keras_lwsam import LWSAMModel


def find_devices(wanted):
    """Names of the devices to train on: GPUs, or parts of the processor."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        count = len(gpus) if wanted == "all" else int(wanted)
        if count > len(gpus):
            sys.exit(f"--devices {count}: there are {len(gpus)} GPUs.")
        return [f"GPU:{i}" for i in range(count)]
    count = 2 if wanted == "all" else int(wanted)
    processor = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:
        # TensorFlow has been used already in this process.
        known = len(tf.config.list_logical_devices("CPU"))
        if known < count:
            sys.exit(f"--devices {count}: there are {known} by now.")
    return [f"CPU:{i}" for i in range(count)]


def mirror(devices):
    """A replica on each device."""
    reduction = None
    if devices[0].startswith("CPU"):
        # Parts of one processor have nothing to send to each other.
        reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, reduction)


def train(strategy, data, args):
    """Trains one network; returns its weights and what to print."""
    (x_train, y_train), (x_test, y_test) = data
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        network = build_network(
            x_train.shape[1:],
            int(y_train.max()) + 1,
            functools.partial(keras.layers.GroupNormalization, 4),
            dropout=0.0,
        )
        model = LWSAMModel(
            network,
            args.method,
            rho=args.rho,
            layers=args.layers,
            sync_perturbation=args.sync,
        )
        compiled(model, args.learning_rate)
    start = time.perf_counter()
    history = model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        # The digits come shuffled; both runs see the same batches.
        shuffle=False,
        verbose=0,
    ).history
    seconds = time.perf_counter() - start
    result = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    return network.get_weights(), (
        f"loss {history['loss'][-1]:.6f}, "
        f"test accuracy {result['accuracy']:.2%}, "
        f"{seconds:.1f} s with compilation, "
        f"perturbed at the end: {', '.join(model.selected_layers)}"
    )


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--devices",
        default="all",
        help="how many: 'all' GPUs, or a number; without GPUs, 'all' is 2 "
        "logical devices of the processor (default: %(default)s)",
    )
    parser.add_argument(
        "--sync",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether all replicas climb the gradient of the whole batch",
    )
    parser.add_argument(
        "--policy",
        default="float32",
        help="Keras dtype policy, such as float64 or mixed_float16 "
        "(default: %(default)s)",
    )
    add_training_arguments(parser, epochs=3, batch_size=64)
    args = parser.parse_args(arguments)
    is_count = args.devices.isdigit() and int(args.devices) > 0
    if args.devices != "all" and not is_count:
        parser.error("--devices must be 'all' or a positive number")
    return args


def main(arguments=None):
    """Trains on one device and on several, and compares."""
    args = parse(arguments)
    devices = find_devices(args.devices)
    keras.config.set_dtype_policy(args.policy)
    (x, y), test = load(args.data)
    # Replicas count alike: a batch that they cannot share evenly would be
    # another mean than on one device, as in plain Keras.
    whole = len(x) // args.batch_size * args.batch_size
    if not whole:
        sys.exit(f"--batch-size {args.batch_size}: there are {len(x)} images.")
    data = (x[:whole], y[:whole]), test
    kind = "GPUs" if devices[0].startswith("GPU") else "logical CPU devices"
    print(f"Devices: {', '.join(devices)} ({len(devices)} {kind})")
    one, text = train(tf.distribute.OneDeviceStrategy(devices[0]), data, args)
    print(f"One device:  {text}")
    several, text = train(mirror(devices), data, args)
    print(f"{len(devices)} replicas:  {text}")
    difference = max(
        float(np.abs(a - b).max()) for a, b in zip(one, several, strict=True)
    )
    print(f"Largest difference between their weights: {difference:.1e}")


if __name__ == "__main__":
    main()
