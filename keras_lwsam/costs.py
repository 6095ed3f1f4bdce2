r"""What a sharpness-aware step costs, read off the network before training.

A step of the base optimizer makes one pass forward, of F operations, and one
backward, of B. Relative to it a step of two gradients that perturbs the layers
S costs

$$ \frac{F + B_S + F_S + B}{F + B} $$

$F_S$ is the work of all operations that depend on a weight of S: they are
computed again, and what lies upstream is not. $B_S$ is that of the first
backward pass, which ends at the first layer of S. The loss, the optimizer's
update and the perturbation itself are not counted.

A measurement can correct what the operations say (`timed=True`): steps wait for
memory and for the launch of each operation, too. Steps are timed that perturb
more and more layers, from the output side on. By what each of them takes longer
than the one before, the speed of the operations is known that it adds.

Loops and conditions, and what follows from them, are computed again in any
case: TensorFlow's graph mode does not merge two of them. Those in Keras's
recurrent layers are not: a second pass takes over what such a layer has made,
unless something that it depends on is perturbed. On JAX they are loops like
others. On PyTorch an operation of a functional network is computed again as a
whole, and a network that is not functional altogether.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_lwsam import (
    _arguments,
    _checks,
    _engines,
    _inputs,
    _layers,
    _timing,
)
from keras_lwsam._tables import percent, table, times
from keras_lwsam._work import REPEATED, Work

__all__ = ["Costs", "LayerCost", "ModelCosts", "Work", "layer_costs"]


class LayerCost(NamedTuple):
    """One layer in the table of costs.

    Attributes:
        path: Its path, as in `LWSAMModel.layer_paths`.
        kind: Name of its class.
        shapes: Shapes of its trainable weights.
        share: Its share of the work of a plain step, forward and backward: of
            the operations that read its weights, and of those after them, up
            to the next layer.
        alone: Cost of a step that perturbs this layer only, relative to a
            plain step.
    """

    path: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    share: float
    alone: float

    @property
    def parameters(self) -> int:
        """The number of its trainable parameters."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What steps on a network cost. Made by `layer_costs`.

    Attributes:
        layers: A `LayerCost` for each perturbable layer, input side first.
        work: The `Work` of the network; at the speeds that were measured, if
            any were.
        weights: Dict from the path of each of these layers to the positions
            of its weights in `work`.
        timed: Pairs of an overhead by the operations and the overhead that was
            measured there, ascending; empty if none was measured.
        of_all: Whether the first gradient is that of all layers, whichever are
            perturbed, as with `perturbation_norm="all"`.
    """

    layers: tuple[LayerCost, ...]
    work: Work
    weights: Mapping[str, tuple[int, ...]]
    timed: tuple[tuple[float, float], ...] = ()
    of_all: bool = False

    def predict(self, paths: Iterable[str]) -> float:
        """Cost of a step of two gradients, relative to the base optimizer's.

        Args:
            paths: Paths of the perturbed layers.

        Raises:
            ValueError: If there is no such layer.
        """
        paths = [paths] if isinstance(paths, str) else list(paths)
        unknown = [path for path in paths if path not in self.weights]
        if unknown:
            raise ValueError(
                "`paths` must be paths of layers that can be perturbed: "
                f"{list(self.weights)}. Received: {unknown}"
            )
        return self.price(i for path in paths for i in self.weights[path])

    def price(self, perturbed: Iterable[int]) -> float:
        """The same, by positions of weights in `work`."""
        measured = None
        if self.of_all:
            measured = [i for own in self.weights.values() for i in own]
        return self.work.cost(perturbed, measured)

    def adapted(self, **changes) -> "Costs":
        """The same costs with other attributes, in the table too."""
        costs = dataclasses.replace(self, **changes)
        layers = (
            layer._replace(alone=costs.predict([layer.path]))
            for layer in costs.layers
        )
        return dataclasses.replace(costs, layers=tuple(layers))


@dataclasses.dataclass(frozen=True)
class ModelCosts(Costs):
    """What the steps of an `LWSAMModel` cost. Made by `LWSAMModel.cost`.

    `print` shows it as a table; `pandas.DataFrame(cost.layers)` makes one.

    Attributes:
        selected: Paths of the layers that are perturbed now.
        overhead: How much slower a step of two gradients is predicted to be
            than one of the base optimizer: `0.15` means 1.15 times as slow.
        not_counted: Dict of what else the steps do, and this does not tell:
            arguments of `LWSAMModel` by name.
    """

    selected: tuple[str, ...] = ()
    overhead: float = 0.0
    not_counted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self):
        rows = [("layer", "type", "weights", "work", "cost alone")]
        for layer in self.layers:
            mark = "*" if layer.path in self.selected else ""
            rows.append(
                (
                    layer.path + mark,
                    layer.kind,
                    f"{layer.parameters:,}",
                    percent(layer.share),
                    times(layer.alone),
                )
            )
        number = f"{len(self.selected)} of {len(self.layers)} layers"
        lines = [
            table(rows, left=2),
            "",
            f"* perturbed now ({number}): a step is predicted to be "
            f"{percent(self.overhead)} slower",
        ]
        if self.not_counted:
            others = (f"{n}={value}" for n, value in self.not_counted.items())
            lines.append(
                "That is a step of two gradients. Not counted, see the "
                f"method's card: {', '.join(others)}"
            )
        return "\n".join(lines)


def layer_costs(
    network: keras.Model,
    inputs=None,
    *,
    batch_size: int = 32,
    length: int = 128,
    timed: bool = False,
) -> Costs:
    """What it costs to perturb each layer of a network.

    The network is traced once and not run; on PyTorch it is called once, on
    ones. In TensorFlow's graph mode, and on PyTorch, the products and
    convolutions that a step executes are those counted here.

    With `timed=True` some steps that perturb layers from the output side on
    are also compiled and taken, in turn with plain ones, until their medians
    are known to a hundredth of a plain step, or for a minute: their weights go
    nowhere. The times correct what the operations say.

    Args:
        network: A built `keras.Model`.
        inputs: A batch, or `keras.KerasTensor`s in its structure, for a
            network that does not know its inputs. Defaults to its own.
        batch_size: Number of samples where `inputs` leave it open. Only what
            does not depend on samples (a norm of a kernel) has another share
            at another size. Defaults to 32, as in `fit`.
        length: What any other open dimension is taken to be, such as the
            length of a sequence. Defaults to 128.
        timed: Whether steps are timed too. If the network is compiled, the
            update of its optimizer is part of them. Inputs of one's own are
            taken as they are; others are drawn. Defaults to `False`.

    Returns:
        The `Costs`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the network is not built, does not know its inputs, or
            cannot be called on inputs of this size.

    Example:

    >>> import keras
    >>> from keras_lwsam import costs
    >>> network = keras.Sequential([
    ...     keras.Input((64,)),
    ...     keras.layers.Dense(64, name="hidden"),
    ...     keras.layers.Dense(64, name="logits"),
    ... ])
    >>> table = costs.layer_costs(network)
    >>> [round(layer.alone, 1) for layer in table.layers]
    [1.8, 1.4]
    >>> table.predict([layer.path for layer in table.layers])
    2.0
    """
    _arguments.instance("network", network, keras.Model, "a keras.Model")
    _arguments.boolean("timed", timed)
    return of_network(
        network, inputs, batch_size, length, network if timed else None
    )


def of_network(network, inputs, batch_size, length, timed_as=None) -> Costs:
    """`layer_costs`, timed as a model trains; `None`: not timed."""
    _checks.is_built(network)
    _arguments.count("batch_size", batch_size)
    _arguments.count("length", length)
    operations = _engines.current().operations
    if inputs is None:
        inputs = _inputs.own(network)
    given, inputs = inputs, _inputs.sized(inputs, batch_size, length)
    layers = _layers.all_layers(network)
    weights = [weight for layer in layers for weight in layer.weights]
    try:
        found = operations.of_network(network, inputs, weights)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda part: part.shape, inputs)
        raise ValueError(
            "The network could not be called on inputs of these shapes. Give "
            "`length` where a dimension is open, and `inputs` where the "
            f"network does not know its own. Received: {shapes}; the error is "
            f"{type(error).__name__}: {error}"
        ) from error
    costs = tabulate(found, layers, network.trainable_variables)
    if timed_as is None:
        return costs
    batch = _inputs.drawn(given, inputs)
    return _corrected(
        costs, _timing.overheads(network, batch, layers, costs, timed_as)
    )


def _corrected(costs, measured):
    """Costs that follow measured overheads.

    Args:
        costs: The `Costs` by the operations.
        measured: Dict from paths of perturbed layers to the overhead.
    """
    counted = {paths: costs.predict(paths) - 1.0 for paths in measured}
    cuts = sorted(counted, key=counted.get)
    # More work does not take less time; where it seems to, it is noise.
    times = np.maximum.accumulate([measured[paths] for paths in cuts]).tolist()
    weights = [[i for path in cut for i in costs.weights[path]] for cut in cuts]
    return costs.adapted(
        work=costs.work.timed(zip(weights, times, strict=True)),
        timed=tuple(zip(map(counted.get, cuts), times, strict=True)),
    )


def tabulate(operations, layers, trainable) -> Costs:
    """The `Costs` of a list of operations.

    Args:
        operations: List of operations, as engines describe them.
        layers: The network's layers, as `all_layers` gives them.
        trainable: The network's trainable variables.
    """
    alive = {id(variable) for variable in trainable}
    weights = [weight for layer in layers for weight in layer.weights]
    trained = frozenset(i for i, w in enumerate(weights) if id(w) in alive)
    layer_of = [n for n, layer in enumerate(layers) for _ in layer.weights]
    forward = collections.defaultdict(float)
    backward = collections.defaultdict(float)
    own = collections.defaultdict(float)
    for operation in operations:
        again = {REPEATED} if operation.is_repeated else ()
        forward[operation.weights.union(again)] += operation.work
        for needing in operation.gradients:
            backward[needing] += operation.work
        if operation.reads:
            passes = 1 + sum(
                not trained.isdisjoint(needing)
                for needing in operation.gradients
            )
            last = max(layer_of[i] for i in operation.reads)
            own[layers[last].path] += passes * operation.work
    work = Work(dict(forward), dict(backward), trained)
    perturbable = _layers.perturbable(layers, trainable)
    return Costs(
        tuple(
            LayerCost(
                path=layer.path,
                kind=type(layer.layer).__name__,
                shapes=tuple(tuple(w.shape) for w in layer.weights),
                share=own[layer.path] / (work.plain or 1.0),
                alone=work.cost(layer.indices),
            )
            for layer in perturbable
        ),
        work,
        {layer.path: layer.indices for layer in perturbable},
    )
