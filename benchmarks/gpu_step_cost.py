"""Step time, throughput and peak memory on an accelerator, on JAX.

    KERAS_BACKEND=jax python -m benchmarks.gpu_step_cost --out FOLDER

Wide ResNet-28-10 on images of 32 x 32 pixels and a ViT-B/16 on 224 x 224, in
`mixed_bfloat16`; plain Keras, SAM, and layer-wise SAM at the last 50, 25 and
10 % of the layers. Each way has a process of its own, as the peak of a device's
memory is that of the process. A step is a call of the compiled training step
with its state donated, as `fit` makes it; the time is the median over the
rounds, until the weights are there.

`--data PATH.npz` trains a ResNet-20 by `fit`, too: with `x_train`, `y_train`,
`x_test` and `y_test`, for each way and seed; its time is that of the epochs
after the first.

It runs on a CPU as well (`--networks resnet20 --batch-size 16`): there to be
tried, not to be quoted.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
# Else the peak is what was set aside at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import keras
import numpy as np
from keras import layers

from benchmarks import environment, step_cost
from examples.residual_networks import resnet20, wide_resnet
from keras_lwsam import LWSAMModel

WAYS = ("plain", "SAM", "last 50%", "last 25%", "last 10%")
COLUMNS = (
    "task",
    "network",
    "batch_size",
    "precision",
    "way",
    "seed",
    "rounds",
    "milliseconds",
    "quartiles",
    "relative",
    "samples_per_second",
    "peak_megabytes",
    "accuracy",
    "compile_seconds",
    "device",
)


def vit_b16(classes=1000, size=224, width=768, depth=12, heads=12):
    """A ViT-B/16 (Dosovitskiy et al. 2021), pre-norm, without dropout."""
    x = inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 16, strides=16, name="patches")(x)
    x = layers.Reshape((-1, width))(x)
    x = Positions(name="positions")(x)
    for block in range(depth):
        y = layers.LayerNormalization(name=f"norm1_{block}")(x)
        attention = layers.MultiHeadAttention(
            heads, width // heads, name=f"attention_{block}"
        )
        x = x + attention(y, y)
        y = layers.LayerNormalization(name=f"norm2_{block}")(x)
        y = layers.Dense(4 * width, "gelu", name=f"expand_{block}")(y)
        x = x + layers.Dense(width, name=f"reduce_{block}")(y)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name="vit_b16")


class Positions(layers.Layer):
    """Adds an embedding of each position."""

    def build(self, shape):
        self.embedding = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="embedding"
        )

    def call(self, x):
        return x + self.embedding


NETWORKS = {
    "wrn28_10": (lambda: wide_resnet(28, 10, classes=100), 128, 32),
    "vit_b16": (vit_b16, 64, 224),
    "resnet20": (resnet20, 128, 32),
}


def model_of(network, way, learning_rate=0.1):
    """The network, compiled as a way of training has it."""
    arguments = step_cost.arguments(way)
    model = network if arguments is None else LWSAMModel(network, **arguments)
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def state_of(model):
    """The values that a step takes over from the one before."""
    return tuple(
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def time_steps(args):
    """A row: steps of one network, trained in one way."""
    import jax

    keras.config.set_dtype_policy(args.precision)
    keras.utils.set_random_seed(0)
    build, batch_size, size = NETWORKS[args.network]
    batch_size = args.batch_size or batch_size
    network = build()
    model = model_of(network, args.way)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch_size, size, size, 3)).astype("float32")
    y = generator.integers(0, network.output_shape[-1], batch_size)
    start = time.perf_counter()
    # Builds what was compiled, and the optimizer.
    model.train_on_batch(x, y)
    compiled = time.perf_counter() - start
    batch = jax.device_put((x, y))
    state = state_of(model)
    seconds = []
    for _ in range(args.rounds + 3):
        start = time.perf_counter()
        _, state = model.train_function(state, iter([(*batch, None)]))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(seconds[3:], n=4)
    return {
        "task": "step",
        "network": args.network,
        "batch_size": batch_size,
        "precision": args.precision,
        "way": args.way,
        "rounds": args.rounds,
        "milliseconds": round(1e3 * median, 2),
        "quartiles": f"{1e3 * low:.2f}-{1e3 * high:.2f}",
        "samples_per_second": round(batch_size / median, 1),
        "compile_seconds": round(compiled, 1),
        **on_device(),
    }


def on_device():
    """Which device it was; the most memory in use, "" if it does not say."""
    import jax

    device = jax.local_devices()[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "peak_megabytes": "" if peak is None else round(peak / 2**20),
        "device": device.device_kind,
    }


def train(args):
    """A row: a ResNet-20 trained on real data."""
    keras.config.set_dtype_policy(args.precision)
    keras.utils.set_random_seed(args.seed)
    with np.load(args.data) as data:
        x, y, *test = (
            data[name] for name in ("x_train", "y_train", "x_test", "y_test")
        )
    x, test[0] = images(x), images(test[0])
    network = resnet20(classes=int(y.max()) + 1, image_shape=x.shape[1:])
    batch_size = args.batch_size or 128
    steps = args.epochs * -(-len(x) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
    model = model_of(network, args.way, rate)
    clock = Clock()
    model.fit(
        x,
        y.reshape(-1),
        batch_size=batch_size,
        epochs=args.epochs,
        callbacks=[clock],
        verbose=0,
    )
    _, accuracy = model.evaluate(test[0], test[1].reshape(-1), verbose=0)
    epoch = statistics.median(clock.seconds[1:] or clock.seconds)
    return {
        "task": "training",
        "network": "resnet20",
        "batch_size": batch_size,
        "precision": args.precision,
        "way": args.way,
        "seed": args.seed,
        "rounds": args.epochs,
        "milliseconds": round(1e3 * epoch * batch_size / len(x), 2),
        "samples_per_second": round(len(x) / epoch, 1),
        "accuracy": round(accuracy, 4),
        **on_device(),
    }


def images(x):
    """Images with a channel, between 0 and 1."""
    x = x.astype("float32") / 255.0
    return x[..., None] if x.ndim == 3 else x


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def in_process(arguments, **own):
    """The row of a run in a process of its own, or `None` if it failed."""
    command = [sys.executable, "-m", "benchmarks.gpu_step_cost", *arguments]
    for name, value in own.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"failed: {own}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, help="folder to write to")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS)[:2])
    add("--ways", nargs="+", choices=WAYS, default=WAYS)
    add("--rounds", type=int, default=50)
    add("--batch-size", type=int, help="default: each network's own")
    add("--precision", default="mixed_bfloat16")
    add("--data", type=pathlib.Path, help="train a ResNet-20 on it, too")
    add("--epochs", type=int, default=30)
    add("--seeds", type=int, default=3)
    # Of one run in a process of its own.
    add("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    add("--way", choices=WAYS, help=argparse.SUPPRESS)
    add("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        row = train(args) if args.network is None else time_steps(args)
        print(json.dumps(row))
        return
    common = ["--rounds", str(args.rounds), "--precision", args.precision]
    if args.batch_size:
        common += ["--batch-size", str(args.batch_size)]
    configuration = {name: str(value) for name, value in vars(args).items()}
    runs = [
        {"network": network, "way": way}
        for network in args.networks
        for way in args.ways
    ]
    if args.data:
        of_all = {"data": args.data, "epochs": args.epochs}
        runs += [
            {"way": way, "seed": seed, **of_all}
            for way in args.ways
            for seed in range(args.seeds)
        ]
    rows, plain = [], {}
    for run in runs:
        row = in_process(common, **run)
        if row is None:
            continue
        key = row["task"], row["network"]
        if run["way"] == "plain":
            plain.setdefault(key, row["milliseconds"])
        if key in plain:
            row["relative"] = round(row["milliseconds"] / plain[key], 3)
        rows.append(row)
        print(*(f"{k}={v}" for k, v in row.items()), flush=True)
        # A cut costs one run.
        environment.record(args.out, COLUMNS, rows, configuration)


if __name__ == "__main__":
    main()
