"""What a step costs on many networks, and as they grow; what tracing costs.

On each network, one step each of plain Keras, a radius of zero, SAM, and
layer-wise SAM at the last 50, 25 and 10 % of the layers, round after round,
each in another order, in one process; a time is the median over the rounds of
the ratio to plain Keras in the same round. Beside it: the same of the
processor's time, which other programs disturb less; the ratio of
floating-point operations that `keras_lwsam.costs` predicts; and that of the
convolutions and products that are executed. Then fewer ways, as depth, width
and batch of a ResNet and of a ViT grow; and compiled by XLA.

The first call of a step, less the median of the later ones, is what tracing it
(and, in XLA, compiling it) takes. Rows are written when a network is done; a
run that is started again goes on after them. `lag` is the measured ratio
divided by the predicted one: those above 1.1 are listed at the end.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from benchmarks import (
    environment,
    networks,
    operations,
    step_cost,
    training,
)
from keras_lwsam import LWSAMModel, costs

COLUMNS = (
    "study",
    "network",
    "size",
    "batch_size",
    "way",
    "rounds",
    "milliseconds",
    "time_ratio",
    "time_ratio_quartiles",
    "processor_time_ratio",
    "predicted_ratio",
    "counted_ratio",
    "lag",
    "first_call_seconds",
)
KEY = COLUMNS[:5]
LAG = 1.1

# The legacy class knows one of the networks only.
WAYS = step_cost.WAYS[: -len(step_cost.LEGACY)]
FEW_WAYS = ("plain", "SAM", "last 25%")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One network of one size, trained in some ways.

    Args:
        study: What it belongs to.
        network: Name of its builder in `networks.BUILDERS`, or of its kind.
        build: Function of `arguments` to a network.
        batch_size: Samples in a batch.
        arguments: Dict of arguments that say its size.
        ways: Names of `WAYS`, "plain" first.
        counts: Whether the executed operations are counted.
        jit_compile: Whether XLA compiles the step.
    """

    study: str
    network: str
    build: object
    batch_size: int
    arguments: dict = dataclasses.field(default_factory=dict)
    ways: tuple = FEW_WAYS
    counts: bool = False
    jit_compile: bool = False

    def key(self, way):
        """What tells the row of a way from all others."""
        size = " ".join(f"{k}={v}" for k, v in self.arguments.items())
        values = (self.study, self.network, size, self.batch_size, way)
        return dict(zip(KEY, values, strict=True))

    def data(self):
        """A batch for its networks."""
        return networks.batch(self.build(**self.arguments), self.batch_size)

    def model(self, way):
        """A compiled model."""
        keras.utils.set_random_seed(0)
        model = self.build(**self.arguments)
        if way != "plain":
            model = LWSAMModel(model, **step_cost.arguments(way))
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=self.jit_compile,
        )
        return model


def settings():
    """All of them, study by study."""
    for name, build in networks.BUILDERS.items():
        size = networks.BATCH_SIZES[name]
        ways = WAYS
        yield Setting("networks", name, build, size, {}, ways, counts=True)
    resnet, wide = networks.resnet20, networks.wide_resnet
    for blocks in (1, 2, 3, 5):  # 8, 14, 20 and 32 layers.
        yield Setting("depth", "resnet", resnet, 64, {"blocks": blocks})
    for depth in (2, 6, 12):
        yield Setting("depth", "vit", networks.vit, 64, {"depth": depth})
    for width in (1, 2, 4):
        arguments = {"depth": 16, "width": width, "classes": 10}
        yield Setting("width", "wide_resnet", wide, 32, arguments)
    for width in (32, 64, 128):
        yield Setting("width", "vit", networks.vit, 64, {"width": width})
    for name in ("resnet20", "vit"):
        for size in (16, 64, 256):
            yield Setting("batch", name, networks.BUILDERS[name], size)
    for name in ("resnet20", "vit"):
        build = networks.BUILDERS[name]
        yield Setting("XLA", name, build, 64, jit_compile=True)


def measure(setting, rounds):
    """Rows of results for one setting."""
    x, y = setting.data()
    # What the first step of a process and of a network takes once.
    step_cost.stepper(setting.model(setting.ways[0]), x, y)()
    steps, first, predicted = {}, {}, {}
    for way in setting.ways:
        model = setting.model(way)
        predicted[way] = predict(model, x)
        steps[way] = step_cost.stepper(model, x, y)
        first[way], _ = seconds_of(steps[way])
    # Seeding the next model made TensorFlow forget the kernels of these.
    for step in [*steps.values()] * 2:
        step()
    seconds = collections.defaultdict(list)
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        # A step may be slower for the one that was taken before it.
        for i in generator.permutation(len(steps)):
            way = setting.ways[i]
            seconds[way].append(seconds_of(steps[way]))
    counted = count(setting, x, y) if setting.counts else {}
    for way in setting.ways:
        ratios = [
            [one / of_plain for one, of_plain in zip(*pair, strict=True)]
            for pair in zip(seconds[way], seconds["plain"], strict=True)
        ]
        elapsed, of_processor = zip(*ratios, strict=True)
        low, ratio, high = statistics.quantiles(elapsed, n=4)
        median = statistics.median(wall for wall, _ in seconds[way])
        executed = counted.get(way)
        yield {
            **setting.key(way),
            "rounds": rounds,
            "milliseconds": round(1e3 * median, 1),
            "time_ratio": round(ratio, 3),
            "time_ratio_quartiles": f"{low:.3f}-{high:.3f}",
            "processor_time_ratio": round(statistics.median(of_processor), 3),
            "predicted_ratio": round(predicted[way], 3),
            "counted_ratio": round(executed, 3) if executed else "",
            "lag": round(ratio / predicted[way], 3),
            "first_call_seconds": round(first[way] - median, 2),
        }


def seconds_of(step):
    """How long a step takes: by the clock, and of all cores' time."""
    start = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def predict(model, x):
    """Predicted operations of a step, relative to plain Keras."""
    if not isinstance(model, LWSAMModel) or model.method.is_plain:
        return 1.0
    return costs.layer_costs(model.model, x).predict(model.selected_layers)


def count(setting, x, y):
    """Dict from way to executed operations, relative to plain Keras."""
    counts = {}
    for way in setting.ways:
        found = operations.executed(setting.model(way), x, y)
        counts[way] = sum(found[kind] for kind in operations.PRODUCTS)
    return {way: n / counts["plain"] for way, n in counts.items()}


def run(setting, results, rounds):
    """Measures what is not there yet, and writes it."""
    missing = [w for w in setting.ways if not results.find(**setting.key(w))]
    if not missing:
        return
    for row in list(measure(setting, rounds)):
        if row["way"] in missing:
            results.add(row)
        print(*(f"{k}={v}" for k, v in row.items()), sep=" ", flush=True)
    keras.utils.clear_session(free_memory=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder to write to"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="studies (networks, depth, width, batch, XLA) or networks",
    )
    args = parser.parse_args()
    results = training.Results(args.out / "results.csv", COLUMNS)
    configuration = {"rounds": args.rounds, "device": "CPU"}
    environment.write(args.out / "environment.json", configuration)
    for setting in settings():
        names = {setting.study, setting.network}
        if args.only is None or names.intersection(args.only):
            run(setting, results, args.rounds)
    for row in results.rows:
        if float(row["lag"]) > LAG:
            shown = (f"{k}={row[k]}" for k in (*KEY, "lag", "time_ratio"))
            print("time lags the operations:", *shown)


if __name__ == "__main__":
    main()
