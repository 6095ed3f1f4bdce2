"""The table and the picture of what `which_layers.py` has found.

Prints a table in Markdown for each network and one of all, and draws, for each
way, the mean norm of the gradients of single batches at the end of training,
and the test accuracy.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import training, which_layers
from benchmarks.accuracy import BASE
from benchmarks.accuracy_table import mean_and_spread, work_of_layers

TITLES = {
    "fashion": "ResNet-8 with BatchNorm, Fashion-MNIST",
    "plain": "convolutions and ReLU alone, Fashion-MNIST",
    "vit": "ViT, Fashion-MNIST",
    "banking77": "transformer, Banking77",
}
MEASURES = (
    "batch_gradient_norm",
    "gradient_norm",
    "eigenvalue",
    "accuracy",
    "train_loss",
)


def summaries(results, name):
    """Dict from the names of ways to their means and spreads."""
    found = {}
    for row in results.find(task=name):
        found.setdefault(row["way"], []).append(row)
    return {label: _summary(rows) for label, rows in found.items()}


def _summary(rows):
    result = {name: mean_and_spread(rows, name) for name in MEASURES}
    works = [{"work": work_of_layers(row)} for row in rows]
    return result | {
        "work": mean_and_spread(works, "work")[0],
        "seeds": len(rows),
        "each": [float(row["batch_gradient_norm"]) for row in rows],
    }


def markdown(table):
    """Lines of a table."""
    yield (
        "| perturbed | work | gradient norm of a batch | of 1,000 samples | "
        "top eigenvalue | training loss | test accuracy, % |"
    )
    yield "|---|---|---|---|---|---|---|"
    for label, row in table.items():
        accuracy = [100 * value for value in row["accuracy"]]
        cells = (
            "nothing" if label == BASE else label,
            f"{row['work']:.2f}",
            "{:.2f} ± {:.2f}".format(*row["batch_gradient_norm"]),
            "{:.3f} ± {:.3f}".format(*row["gradient_norm"]),
            "{:.1f} ± {:.1f}".format(*row["eigenvalue"]),
            "{:.3f} ± {:.3f}".format(*row["train_loss"]),
            "{:.2f} ± {:.2f}".format(*accuracy),
        )
        yield f"| {' | '.join(cells)} |"


def overview(tables):
    """Lines of a table of all networks, relative to perturbing nothing."""
    yield f"| perturbed | {' | '.join(tables)} |"
    yield "|---" * (len(tables) + 1) + "|"
    for label in max(tables.values(), key=len):
        cells = ["nothing" if label == BASE else label]
        for table in tables.values():
            ratios = [
                table[label][name][0] / table[BASE][name][0]
                for name in ("batch_gradient_norm", "eigenvalue")
                if label in table
            ]
            cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
        yield f"| {' | '.join(cells)} |"


def draw(tables, path):
    """A column for each network: gradient norms above, accuracies below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2,
        len(tables),
        figsize=(1.2 + 3.3 * len(tables), 6),
        sharey=True,
        squeeze=False,
    )
    labels = list(max(tables.values(), key=len))
    for column, (name, table) in enumerate(tables.items()):
        for label, row in table.items():
            i, color = labels.index(label), _color(label)
            axes[0][column].plot(row["each"], [i] * row["seeds"], "o", c=color)
            mean, spread = (100 * value for value in row["accuracy"])
            axes[1][column].errorbar(
                mean, i, xerr=spread, fmt="o", color=color, capsize=2
            )
        axes[0][column].set_title(TITLES[name], fontsize=9)
        axes[0][column].set_xlabel("gradient norm of a batch")
        axes[0][column].set_xlim(left=0)
        axes[1][column].set_xlabel("test accuracy, %")
        for axis in axes[:, column]:
            axis.set_yticks(range(len(labels)), labels, fontsize=8)
            axis.tick_params("x", labelsize=8)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def _color(label):
    if label == BASE:
        return "#555555"
    return "#c0392b" if label.startswith("largest") else "#2471a3"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="of the study")
    parser.add_argument("--plot", type=pathlib.Path, help="a PNG to write")
    args = parser.parse_args()
    results = training.Results(
        args.folder / "results.csv", which_layers.COLUMNS
    )
    tables = {name: summaries(results, name) for name in TITLES}
    tables = {name: table for name, table in tables.items() if table}
    for name, table in tables.items():
        print(f"\n{TITLES[name]}\n")
        print("\n".join(markdown(table)))
    print("\nNorm of a batch's gradient, top eigenvalue: relative to nothing\n")
    print("\n".join(overview(tables)))
    if args.plot:
        draw(tables, args.plot)


if __name__ == "__main__":
    main()
