"""What a step of each method executes, in passes through the network.

For ResNet-20, every method with its default arguments, all layers perturbed
and the last tenth: convolutions of the executed graph, forward and backward,
divided by those of a step of plain Keras. A method that takes different steps
at different times has a row for each. `python -m benchmarks.step_cost
--all-methods` runs this.
"""

import csv

COLUMNS = (
    "method",
    "step",
    "layers",
    "forward",
    "backward",
    "random_draws",
)

# The steps that a method takes one after the other, where they are not alike.
STEPS = {
    "look_sam": ("every k-th", "between"),
    "fisher_sparse_sam": ("mask measured after it", "other"),
    "dynamic_sparse_sam": ("first", "mask renewed"),
}


def make(name):
    """The method with its defaults, and what those leave open."""
    from keras_lwsam import methods

    if name == "imbsam":
        return methods.ImbSAM([5000] * 5 + [10] * 5)
    if name == "look_sam":
        return methods.LookSAM(k=2)
    if name == "fisher_sparse_sam":
        return methods.FisherSparseSAM(num_samples=4)
    if name == "dynamic_sparse_sam":
        return methods.DynamicSparseSAM(refresh=1)
    return methods.get(name)


def rows(batch_size=8):
    """Rows of the table, one after the other."""
    import keras

    from benchmarks import networks, operations
    from keras_lwsam import LWSAMModel, methods, selection

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network = networks.resnet20()
    x, y = networks.batch(network, batch_size)
    network.compile("sgd", loss)
    plain = operations.executed(network, x, y)
    for name in methods.NAMES:
        for layers in ("all", "last tenth"):
            keras.utils.clear_session()
            chosen = "all" if layers == "all" else selection.OutputSide(0.1)
            network = networks.resnet20()
            model = LWSAMModel(network, make(name), layers=chosen)
            model.compile("sgd", loss)
            for step in STEPS.get(name, ("every",)):
                counts = operations.executed(model, x, y)
                yield {
                    "method": name,
                    "step": step,
                    "layers": layers,
                    "forward": ratio(counts, plain, "convolution"),
                    "backward": ratio(counts, plain, "convolution_backward"),
                    "random_draws": counts["random"] - plain["random"],
                }


def ratio(counts, plain, kind):
    """Passes through the network, in units of a plain step's."""
    return round(counts[kind] / plain[kind], 3)


def run(folder):
    """Prints the table; writes it to a folder, row by row, if there is one."""
    from benchmarks import environment

    table = []
    for row in rows():
        table.append(row)
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            environment.write(
                folder / "environment.json",
                {"network": "resnet20", "batch_size": 8, "mode": "graph"},
            )
            with open(folder / "results.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(table)
