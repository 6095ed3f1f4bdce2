"""The table and the picture of what `accuracy.py` has found.

Prints a table in Markdown for each task, and draws test accuracy against the
work of training.
"""

import argparse
import functools
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import accuracy_time, tasks, training
from benchmarks.accuracy import BASE, WAYS, tuned
from keras_lwsam import costs

# Of the picture: how far below the best accuracy others are shown, in points;
# how far apart those of one price are drawn.
BELOW, APART = 3.0, 0.035

TITLES = {
    "fashion": "Fashion-MNIST, 6,000 images, ResNet-8",
    "noisy": "the same, a fifth of the labels wrong",
    "banking77": "Banking77, 6,000 questions, transformer",
}


@functools.cache
def _costs(task):
    return costs.layer_costs(tasks.TASKS[task].build(tasks.TASKS[task].classes))


def work(row):
    """The work of a run, in units of that of the base optimizer."""
    way = WAYS[row["way"]]
    if way.method is None or way.gradients == 1:
        return float(way.longer)
    # Steps between those of two gradients cost one.
    return 1.0 + (work_of_layers(row) - 1.0) * (way.gradients - 1.0)


def work_of_layers(row):
    """The same if every step has two gradients: by the layers of each epoch."""
    found = _costs(row["task"])
    paths = [layer.path for layer in found.layers]
    total = sum(
        epochs * found.predict([paths[i] for i in positions])
        for epochs, positions in training.selections_of(row)
    )
    return total / int(row["epochs"]) if total else 1.0


def summary(rows):
    """Mean and standard deviation of what several seeds gave."""
    result = {"seeds": len(rows), "rho": rows[0]["rho"]}
    result["work"] = statistics.mean(work(row) for row in rows)
    for name in ("accuracy", "loss", "gradient_norm", "eigenvalue"):
        result[name] = mean_and_spread(rows, name)
    return result


def mean_and_spread(rows, name):
    """Mean and standard deviation of a column, of runs that have it."""
    values = [float(row[name]) for row in rows if row[name] != ""]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), spread


def summaries(results, task):
    """Dict from the names of ways to their summaries."""
    found = {}
    for label in WAYS:
        if not results.find(task=task, phase="test", way=label):
            continue
        rho, rate = tuned(results, task, label)
        rows = results.find(
            task=task, phase="test", way=label, rho=rho, learning_rate=rate
        )
        if rows:
            found[label] = summary(rows)
    return found


def times(path):
    """Dict from task and way to the ratio of times, if it was measured."""
    if not path.exists():
        return {}
    rows = training.Results(path, accuracy_time.COLUMNS).rows
    found = {(row["task"], row["way"]): row["time_ratio"] for row in rows}
    for task, _ in list(found):
        found[task, f"{BASE}, twice as long"] = "1.0"
    return found


def markdown(task, table, measured):
    """Lines of a table."""
    yield (
        "| way | rho | accuracy, % | test loss | gradients a step | work | "
        "time of a step | gradient norm | top eigenvalue |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    # On noisy labels a step is the same.
    timed_on = "fashion" if task == "noisy" else task
    for label, row in table.items():
        accuracy = [100 * value for value in row["accuracy"]]
        cells = (
            label,
            row["rho"],
            "{:.2f} ± {:.2f}".format(*accuracy),
            "{:.3f} ± {:.3f}".format(*row["loss"]),
            f"{WAYS[label].gradients:g}",
            f"{row['work']:.2f}",
            measured.get((timed_on, label), ""),
            f"{row['gradient_norm'][0]:.3f}",
            "{:.1f} ± {:.1f}".format(*row["eigenvalue"]),
        )
        yield f"| {' | '.join(cells)} |"


def overview(tables):
    """Lines of a table of all tasks: accuracies, and the work of training."""
    yield f"| way | gradients a step | {' | '.join(tables)} |"
    yield "|---" * (len(tables) + 2) + "|"
    for label, way in WAYS.items():
        cells = [label, f"{way.gradients:g}"]
        for table in tables.values():
            row, cell = table.get(label), ""
            if row:
                mean, spread = (100 * value for value in row["accuracy"])
                cell = f"{mean:.2f} ± {spread:.2f} ({row['work']:.2f})"
            cells.append(cell)
        yield f"| {' | '.join(cells)} |"


def draw(tables, path):
    """Accuracy against work, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(tables), figsize=(4.3 * len(tables), 6.2), squeeze=False
    )
    for axis, (task, table) in zip(axes[0], tables.items(), strict=True):
        # What lies far below all others is marked at the edge.
        best = max(row["accuracy"][0] for row in table.values())
        floor = 100 * best - BELOW
        shifts = _apart({label: row["work"] for label, row in table.items()})
        lows = []
        for label, row in table.items():
            mean, spread = (100 * value for value in row["accuracy"])
            if mean < floor:
                lows.append((label, row["work"] + shifts[label], mean))
                continue
            axis.errorbar(
                row["work"] + shifts[label],
                mean,
                spread,
                label=label,
                capsize=2,
                linewidth=1,
                markersize=7,
                **_style(label),
            )
        bottom = axis.get_ylim()[0]
        for label, work, mean in lows:
            axis.plot(work, bottom, clip_on=False, label=label, **_style(label))
            axis.annotate(
                f"{mean:.1f}",
                (work, bottom),
                textcoords="offset points",
                xytext=(0, 7),
                ha="center",
                fontsize=7,
            )
        axis.set_ylim(bottom=bottom)
        axis.set_title(TITLES[task], fontsize=10)
        axis.set_xlabel("work of training (base optimizer: 1)")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("test accuracy, %")
    entries = {}
    for axis in axes[0]:
        entries |= {
            label: handle
            for handle, label in zip(
                *axis.get_legend_handles_labels(), strict=True
            )
        }
    ordered = [label for label in WAYS if label in entries]
    figure.legend(
        [entries[label] for label in ordered],
        ordered,
        loc="lower center",
        ncols=5,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=130)


def _apart(works):
    """Small shifts to the right of ways of nearly the same work."""
    shifts, last = {}, None
    for label, work in sorted(works.items(), key=lambda item: item[1]):
        near = last is not None and work < last + APART
        last = last + APART if near else work
        shifts[label] = last - work
    return shifts


def _style(label):
    """Marker and colour: of plain training, of layers, of the methods."""
    kinds = {
        "#555555": [k for k in WAYS if k.startswith(BASE)],
        "#c0392b": [k for k in WAYS if k.startswith("layer-wise")],
    }
    others = [k for k in WAYS if not any(k in v for v in kinds.values())]
    kinds["#2471a3"] = others[::2]
    kinds["#e08e0b"] = others[1::2]
    for color, labels in kinds.items():
        if label in labels:
            marker = "osD^vPX*"[labels.index(label)]
            return {"marker": marker, "color": color, "linestyle": "none"}
    raise KeyError(label)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="of the study")
    parser.add_argument("--plot", type=pathlib.Path, help="a PNG to write")
    args = parser.parse_args()
    results = training.Results(args.folder / "results.csv")
    measured = times(args.folder / "times" / "results.csv")
    tables = {task: summaries(results, task) for task in TITLES}
    tables = {task: table for task, table in tables.items() if table}
    for task, table in tables.items():
        print(f"\n{TITLES[task]}\n")
        print("\n".join(markdown(task, table, measured)))
    print("\nAccuracy in %, mean and spread, and the work of training\n")
    print("\n".join(overview(tables)))
    if args.plot:
        draw(tables, args.plot)


if __name__ == "__main__":
    main()
