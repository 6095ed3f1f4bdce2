"""What a training step needs of memory, and whether it is given back.

Peak: plain Keras, SAM, and layer-wise SAM at the last 50, 25 and 10 % of the
layers, each in a process of its own. TensorFlow is told to use the allocator
on the CPU that it uses on a GPU, which counts: the peak is that of the bytes
of tensors live in a step, less what lives between steps already. A second
process, with the allocator that a CPU has by default, tells by how much the
resident memory rose above that after import and build.

Growth: the resident memory of one `fit` of many steps of a small network.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLUMNS = (
    "measurement",
    "network",
    "way",
    "batch_size",
    "repetition",
    "allocated_megabytes",
    "resident_megabytes",
    "slope",
    "bar",
)
NETWORKS = {"resnet20": 128, "vit": 256}
PEAK_WAYS = ("plain", "SAM", "last 50%", "last 25%", "last 10%")
GROWTH_WAYS = (
    "plain",
    "sam",
    "adaptive",
    "look_sam",
    "sampa",
    "dynamic_sparse_sam",
)
# Megabytes in a thousand steps: a kilobyte a step. A batch of the network of
# `growth` has four, the smallest of its kernels sixteen.
BAR = 1.0
# What the first steps need to trace, to compile and to fill pools.
WARM_UP = 2
MEGABYTE = 2**20


def resident(field="VmRSS"):
    """Megabytes of memory of this process; `VmHWM` is the peak of them."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def first_steps(name, way, batch_size):
    """A function that takes a step, and the resident memory before any."""
    from benchmarks import networks, step_cost

    model = step_cost.build(name, way)
    x, y = networks.batch(getattr(model, "model", model), batch_size)
    return step_cost.stepper(model, x, y), resident()


def allocated_peak(name, way, batch_size):
    """Peak of the bytes live in a step beyond those live before, in MB."""
    from tensorflow import config

    step, _ = first_steps(name, way, batch_size)
    step()
    peaks = []
    for _ in range(5):
        config.experimental.reset_memory_stats("CPU:0")
        before = config.experimental.get_memory_info("CPU:0")["current"]
        step()
        peak = config.experimental.get_memory_info("CPU:0")["peak"]
        peaks.append((peak - before) / MEGABYTE)
    return statistics.median(peaks)


def resident_peak(name, way, batch_size):
    """Peak resident memory of five steps above that of the built model."""
    step, built = first_steps(name, way, batch_size)
    step()
    # Forgets the peak of tracing.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(5):
        step()
    return resident("VmHWM") - built


def dense_model(way, refresh):
    """A compiled small network under one of `GROWTH_WAYS`."""
    import keras

    from keras_lwsam import LWSAMModel, methods, selection

    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((64,))])
    for _ in range(3):
        network.add(keras.layers.Dense(64, activation="relu"))
        network.add(keras.layers.BatchNormalization())
        network.add(keras.layers.Dropout(0.1))
    network.add(keras.layers.Dense(10))
    arguments = {
        "sam": {"layers": "all"},
        "adaptive": {"layers": selection.LargestGradientNorm(0.25, refresh)},
        "look_sam": {"method": "look_sam", "layers": "all"},
        "sampa": {"method": "sampa", "layers": "all"},
        "dynamic_sparse_sam": {
            "method": methods.DynamicSparseSAM(refresh=refresh),
            "layers": "all",
        },
    }
    model = network
    if way != "plain":
        model = LWSAMModel(network, **arguments[way])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def growth(way, steps, parts=10, refresh=100, callbacks=()):
    """Resident memory at each of `parts` times in one `fit`, in MB."""
    import keras
    import numpy as np

    generator = np.random.default_rng(0)
    count = 16 * (steps // parts)
    x = generator.normal(size=(count, 64)).astype("float32")
    y = generator.integers(0, 10, count)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            gc.collect()
            seen.append(resident())

    model = dense_model(way, refresh)
    watched = [*callbacks, Watch()]
    model.fit(x, y, 16, epochs=parts, verbose=0, callbacks=watched)
    return seen


def slope(values):
    """Slope of the line of least squares through equidistant values."""
    times = range(len(values))
    return statistics.linear_regression(times, values).slope


def in_a_process(*command):
    """What one measurement gives in a process of its own."""
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    if command[0] == "allocated":
        environment["TF_CPU_ALLOCATOR_USE_BFC"] = "true"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--one", *command],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def one(kind, *arguments):
    """The measurement of `in_a_process`."""
    if kind == "growth":
        way, steps = arguments
        return growth(way, int(steps))
    name, way, batch_size = arguments
    peak = {"allocated": allocated_peak, "resident": resident_peak}[kind]
    return peak(name, way, int(batch_size))


def peak_rows(repetitions):
    """Rows of peaks, round after round."""
    for repetition in range(repetitions):
        for name, batch_size in NETWORKS.items():
            for way in PEAK_WAYS:
                arguments = name, way, str(batch_size)
                yield {
                    "measurement": "peak",
                    "network": name,
                    "way": way,
                    "batch_size": batch_size,
                    "repetition": repetition,
                    **{
                        f"{kind}_megabytes": round(
                            in_a_process(kind, *arguments), 1
                        )
                        for kind in ("allocated", "resident")
                    },
                }


def growth_rows(steps):
    """Rows of growth."""
    for way in GROWTH_WAYS:
        seen = in_a_process("growth", way, str(steps))
        thousands = steps / len(seen) / 1000
        yield {
            "measurement": "growth",
            "network": "dense",
            "way": way,
            "batch_size": 16,
            "resident_megabytes": " ".join(f"{x:.1f}" for x in seen),
            "slope": round(slope(seen[WARM_UP - 1 :]) / thousands, 3),
            "bar": BAR,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    rows = []
    for make in (growth_rows(args.steps), peak_rows(args.repetitions)):
        for row in make:
            rows.append(row)
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            if args.out:
                save(rows, args)


def save(rows, args):
    """Writes what there is so far."""
    from benchmarks import environment

    configuration = {
        "repetitions": args.repetitions,
        "steps": args.steps,
        "mode": "graph",
        "device": "CPU",
    }
    environment.record(args.out, COLUMNS, rows, configuration)


if __name__ == "__main__":
    main()
