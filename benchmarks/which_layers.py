"""Which layers should be perturbed? The claim of layer-wise SAM, tested.

Four networks: a BatchNorm ResNet, a ViT and a plain ReLU network on part of
Fashion-MNIST, a small transformer on Banking77. A quarter of their layers is
perturbed, chosen by the largest or the smallest gradient norm, at random, or
from one side, with the same radius; beside it the base optimizer, SAM, and the
author's own settings. After training: the norm of the gradient over training
data, and of single batches, the largest eigenvalue of the Hessian, and the test
accuracy. Runs that are in results.csv already are not repeated.
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


def ways(seed):
    """Dict from names to functions of a network and a radius to a model."""
    chosen = {
        "SAM": "all",
        "largest norm": selection.LargestGradientNorm(SHARE),
        "smallest norm": selection.SmallestGradientNorm(SHARE),
        "at random": selection.Random(SHARE, seed=seed),
        "output side": selection.OutputSide(SHARE),
        "input side": selection.InputSide(SHARE),
    }
    result = {"base optimizer": None}
    for name, layers in chosen.items():
        result[name] = functools.partial(_wrapped, methods.SAM, layers)
    kernels = selection.KernelsOnly(selection.LargestGradientNorm(SHARE))
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
            for label, way in ways(seed).items():
                values = (name, "test", label, RADIUS, rate, seed)
                key = dict(zip(training.KEY, values, strict=True))
                if results.find(**key):
                    continue
                row = training.run(
                    task,
                    data[name],
                    way,
                    RADIUS,
                    rate,
                    seed,
                    task.epochs,
                    measures=(training.flatness, training.batch_gradients),
                )
                results.add({**key, "epochs": task.epochs, **row})
                print({**key, **row}, flush=True)


if __name__ == "__main__":
    main()
