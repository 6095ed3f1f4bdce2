"""Convolutions and products that a step executes, on whichever backend.

    KERAS_BACKEND=torch python -m benchmarks.backend_operations --out FOLDER

TensorFlow: of the graph that was executed. JAX: of the program that XLA has
compiled. PyTorch: as it dispatched them (its backward pass of a convolution is
one operation, of a product two). Rows are added to those of other backends.
"""

import argparse
import collections
import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks import environment, networks, step_cost, training
from keras_lwsam import LWSAMModel

COLUMNS = ("backend", "network", "way", "convolutions", "products")
WAYS = ("plain", "SAM", "last 50%", "last 25%", "last 10%")


def of_tensorflow(model, x, y):
    from benchmarks import operations

    found = operations.executed(model, x, y)
    convolutions = found["convolution"] + found["convolution_backward"]
    return convolutions, found["product"]


def of_jax(model, x, y):
    import jax

    from benchmarks.gpu_step_cost import state_of

    model.train_on_batch(x, y)
    step = jax.jit(model.train_step, donate_argnums=0)
    text = step.lower(state_of(model), (x, y, None)).compile().as_text()
    return (
        len(re.findall(r"= \S+ convolution\(", text)),
        len(re.findall(r"= \S+ dot\(", text)),
    )


def of_torch(model, x, y):
    from torch.utils._python_dispatch import TorchDispatchMode

    found = collections.Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    model.train_on_batch(x, y)
    with Counting():
        model.train_on_batch(x, y)
    convolutions = found["convolution"] + found["convolution_backward"]
    return convolutions, found["mm"] + found["addmm"] + found["bmm"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    backend = keras.backend.backend()
    count = {"tensorflow": of_tensorflow, "jax": of_jax, "torch": of_torch}
    results = training.Results(args.out / "results.csv", COLUMNS)
    environment.write(args.out / f"{backend}.json", {"batch_size": 2})
    for name in ("resnet20", "vit", "mlp", "lstm"):
        for way in WAYS:
            if results.find(backend=backend, network=name, way=way):
                continue
            keras.utils.set_random_seed(0)
            network = networks.BUILDERS[name]()
            arguments = step_cost.arguments(way)
            model = network
            if arguments is not None:
                model = LWSAMModel(network, **arguments)
            model.compile(
                keras.optimizers.SGD(0.1, momentum=0.9),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
            x, y = networks.batch(network, 2)
            convolutions, products = count[backend](model, x, y)
            row = (backend, name, way, convolutions, products)
            results.add(dict(zip(COLUMNS, row, strict=True)))
            print(*row, flush=True)


if __name__ == "__main__":
    main()
