"""Which layers should be perturbed? The claim of layer-wise SAM, tested.

Four networks: a BatchNorm ResNet, a ViT and a plain ReLU network on part of
Fashion-MNIST, a small transformer on Banking77. A quarter of their layers is
perturbed, chosen by the largest or the smallest gradient norm, at random, or
from one side, with the same radius; beside it the base optimizer, SAM, and the
author's own settings. The learning rate is the middle one of those that
`accuracy.py` tries. After training: the norm of the gradient over 1,000
training samples, the mean of that of their batches, the largest eigenvalue of
the Hessian over 500, and the test accuracy. Runs that are in results.csv
already are not repeated.
"""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import environment, tasks, training
from keras_lwsam import LWSAMModel, methods, selection

COLUMNS = (*training.COLUMNS, "batch_gradient_norm")
SHARE = 0.25
RADIUS = 0.1

NETWORKS = ("fashion", "plain", "banking77", "vit")


def ways(task, seed):
    """Dict from names to functions of a network and a radius to a model."""
    layers = LWSAMModel(task.build(task.classes)).layer_paths
    count = round(SHARE * len(layers))
    chosen = {
        "SAM": "all",
        "largest norm": selection.LargestGradientNorm(count),
        "smallest norm": selection.SmallestGradientNorm(count),
        "at random": selection.Random(count, seed=seed),
        "output side": selection.OutputSide(count),
        "input side": selection.InputSide(count),
    }
    result = {"base optimizer": None}
    for name, layers in chosen.items():
        result[name] = functools.partial(_wrapped, methods.SAM, layers)
    kernels = selection.KernelsOnly(selection.LargestGradientNorm(count))
    result["largest norm, GNP on kernels"] = functools.partial(
        _wrapped, methods.GNP, kernels
    )
    return result


def _wrapped(method, layers, network, rho):
    return LWSAMModel(network, method(rho=rho), layers=layers)


def main():
    args = training.parser(__doc__, "networks", NETWORKS, seeds=3).parse_args()
    training.single_threaded()
    results = training.Results(args.out / "results.csv", COLUMNS)
    environment.write(
        args.out / "environment.json",
        {"seeds": args.seeds, "share": SHARE, "rho": RADIUS},
    )
    data = {name: tasks.TASKS[name].load(args.data) for name in args.networks}
    for seed in range(1, args.seeds + 1):
        for name in args.networks:
            task = tasks.TASKS[name]
            rate = task.learning_rates[1]
            for label, way in ways(task, seed).items():
                rho = RADIUS if way else ""
                values = (name, "test", label, rho, rate, seed, task.epochs)
                key = dict(zip(training.KEY, values, strict=True))
                if results.find(**key):
                    continue
                row = training.run(
                    task,
                    data[name],
                    way,
                    rho,
                    rate,
                    seed,
                    task.epochs,
                    measures=(training.flatness, training.batch_gradients),
                )
                results.add({**key, **row})
                print({**key, **row}, flush=True)


if __name__ == "__main__":
    main()
