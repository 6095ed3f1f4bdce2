"""What a `LayerNormTracker` costs: the same step, watched and not.

For ResNet-20 and small KerasHub ViT and BERT classifiers, one step each of
layer-wise SAM (the last quarter of the layers) and of SAM, watched and not, in
turn, round after round, in one process. The overhead is the median over the
rounds of the ratio of the two steps in the same round. What an epoch takes to
be recorded is given in steps.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

COLUMNS = (
    "network",
    "way",
    "batch_size",
    "watched_ratio",
    "watched_ratio_quartiles",
    "milliseconds",
    "operations",
    "operations_watched",
    "epoch_end_in_steps",
)


def build(name, way, watched):
    """A compiled model."""
    import keras

    from benchmarks import networks
    from keras_lwsam import LWSAMModel, selection

    keras.utils.set_random_seed(0)
    layers = "all" if way == "SAM" else selection.OutputSide(0.25)
    model = LWSAMModel(networks.BUILDERS[name](), layers=layers)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.watched = watched
    return model


def seconds_of(function):
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def epoch_end(model):
    """Median seconds that the end of an epoch takes to be recorded."""
    from keras_lwsam import callbacks

    tracker = callbacks.LayerNormTracker()
    tracker.set_model(model)
    tracker.on_train_begin()
    tracker.on_epoch_begin(0)
    times = [
        seconds_of(lambda epoch=epoch: tracker.on_epoch_end(epoch))
        for epoch in range(6)
    ]
    return statistics.median(times[1:])


def measure(name, batch_size, rounds):
    """Rows of results for one network."""
    from benchmarks import networks, operations, step_cost

    x, y = networks.batch(networks.BUILDERS[name](), batch_size)
    models = {
        (way, watched): build(name, way, watched)
        for way in ("last 25%", "SAM")
        for watched in (False, True)
    }
    steps = {
        key: step_cost.stepper(model, x, y) for key, model in models.items()
    }
    for step in steps.values():
        for _ in range(3):
            step()
    seconds = {key: [] for key in steps}
    for number in range(rounds):
        # In turn, and the other way round: what comes first is not favoured.
        order = list(steps) if number % 2 else list(reversed(steps))
        for key in order:
            seconds[key].append(seconds_of(steps[key]))
    for way in ("last 25%", "SAM"):
        plain, watched = seconds[way, False], seconds[way, True]
        ratios = [w / p for w, p in zip(watched, plain, strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        counts = [
            sum(operations.executed(build(name, way, w), x, y).values())
            for w in (False, True)
        ]
        end = epoch_end(models[way, True])
        yield {
            "network": name,
            "way": way,
            "batch_size": batch_size,
            "watched_ratio": round(statistics.median(ratios), 4),
            "watched_ratio_quartiles": f"{quartiles[0]:.3f}-{quartiles[2]:.3f}",
            "milliseconds": round(1e3 * statistics.median(plain), 1),
            "operations": counts[0],
            "operations_watched": counts[1],
            "epoch_end_in_steps": round(end / statistics.median(plain), 3),
        }


def main(arguments=None):
    """Measures all networks, and writes a record."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--networks", nargs="+", default=["resnet20", "vit", "bert"]
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder to write to")
    args = parser.parse_args(arguments)
    from benchmarks import environment

    rows = []
    for name in args.networks:
        for row in measure(name, args.batch_size, args.rounds):
            print(row, flush=True)
            rows.append(row)
        if args.out:
            configuration = {
                "rounds": args.rounds,
                "mode": "graph",
                "device": "CPU",
            }
            environment.record(args.out, COLUMNS, rows, configuration)


if __name__ == "__main__":
    main()
