"""`cost`: what a step costs that perturbs some layers of a saved network."""

import argparse
import json

import numpy as np

from keras_lwsam import _layers, selection
from keras_lwsam._command_line import networks
from keras_lwsam._command_line.arguments import UsageError, add_network
from keras_lwsam._pricing import not_counted
from keras_lwsam._tables import times

TEXT = """\
What a step costs that perturbs some layers, in units of a step of the base
optimizer: the floating-point operations of a method of two gradients, such as
SAM or layer-wise SAM.

A number of layers, or a share of them, means those of the largest gradient
norm. A saved LWSAMModel knows the norms; of another network the cheapest and
the dearest choice are told.
"""
EXAMPLES = """\
examples:
  keras-lwsam cost network.keras --layers all
  keras-lwsam cost network.keras --layers 3
  keras-lwsam cost network.keras --layers 0.25
  keras-lwsam cost network.keras --layers logits 'encoder/block_1[01]/.*'
  keras-lwsam cost run.keras              the layers that the run perturbs now
"""


def add_to(commands):
    """Adds the command to the parser."""
    command = commands.add_parser(
        "cost",
        usage="%(prog)s MODEL.keras [--layers LAYERS ...] [options]",
        help="predict what it costs to perturb some layers",
        description=TEXT,
        epilog=EXAMPLES,
    )
    add_network(command)
    command.add_argument(
        "--layers",
        nargs="+",
        action=_Layers,
        metavar="LAYERS",
        help="a number of layers; a share in (0, 1], written with a point; "
        "'15%%', a budget; 'all', 'head', 'last_blocks:N', 'normalization'; or "
        "layer paths and regular expressions. Needed unless the file is that "
        "of an LWSAMModel",
    )
    command.set_defaults(run=run)


class _Layers(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        try:
            setattr(namespace, self.dest, selection.get(_argument(values)))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def _argument(words):
    """The `layers` argument of `LWSAMModel` that some words mean."""
    if len(words) > 1:
        return words
    for convert in (int, float):
        try:
            return convert(words[0])
        except ValueError:
            continue
    return words[0]


def run(arguments):
    """Prints the prediction."""
    saved = networks.load(arguments)
    if arguments.layers is None and saved.wrapper is None:
        raise UsageError(
            "The file is that of a plain network, which perturbs no layers. "
            "Say which, such as --layers 0.25. "
            f"Received: {arguments.file!r}"
        )
    try:
        described = describe(saved, arguments.layers)
    except ValueError as error:
        raise UsageError(error) from error
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        print("\n".join(_lines(described)))


def describe(saved, chosen=None) -> dict:
    """What there is to say of a choice of layers, as JSON has it.

    Args:
        saved: A `networks.Saved`.
        chosen: A `selection.Selection`, or `None`: that of the wrapper.

    Raises:
        ValueError: If the network does not allow the selection.
    """
    described = {
        "network": saved.network.name,
        "layers": len(saved.costs.layers),
        "cost_all": saved.costs.predict(saved.costs.weights),
    }
    if chosen is None:
        return {**described, **_of_wrapper(saved)}
    layers = _layers.perturbable(
        _layers.all_layers(saved.network), saved.network.trainable_variables
    )
    observations = _observations(saved)
    goes_by_norms = isinstance(chosen, selection.LargestGradientNorm)
    is_known = observations.squared_gradient_norms is not None
    if goes_by_norms and chosen.num_layers and not is_known:
        return {**described, **_range(saved.costs, chosen.count(layers))}
    paths = [layers[i].path for i in chosen.resolve(layers, observations)]
    cost = saved.costs.predict(paths)
    return {**described, "selected": paths, "cost": cost}


def _of_wrapper(saved):
    """What a wrapper perturbs now, as it is told to."""
    wrapper = saved.wrapper
    if wrapper.method.is_plain:
        return {"selected": [], "cost": 1.0}
    cost = saved.costs.price(wrapper._adaptation.weight_indices())
    described = {"selected": wrapper.selected_layers, "cost": cost}
    known = not_counted(wrapper)
    return {**described, **({"not_counted": known} if known else {})}


def _range(costs, count):
    """What a cheap and a dear choice of so many layers costs.

    Layer after layer is added, the one that adds least, or most: where
    branches share work there may be choices that are cheaper, or dearer.
    """

    def chosen(best):
        paths, left = [], set(costs.weights)
        while len(paths) < count:
            prices = {path: costs.predict([*paths, path]) for path in left}
            paths.append(best(sorted(prices), key=prices.get))
            left.remove(paths[-1])
        return costs.predict(paths)

    return {"number": count, "cheap": chosen(min), "dear": chosen(max)}


def _observations(saved):
    """What is known of the layers: their prices, and what a run measured."""

    def price(perturbed, timed=False):
        return saved.costs.price(perturbed)

    wrapper = saved.wrapper
    nothing = selection.Observations(price=price)
    if wrapper is None:
        return nothing
    norms = wrapper.epoch_layer_gradient_norms
    if not any(norms.values()):
        norms = wrapper.layer_gradient_norms
    if not any(norms.values()):
        return nothing
    squared = np.zeros(len(wrapper._weights_of_network))
    for layer in wrapper._adaptation.layers:
        squared[layer.indices[0]] = norms[layer.path] ** 2
    return selection.Observations(
        squared, tuple(wrapper.selected_layers), price=price
    )


def _lines(described):
    number = described.get("number", len(described.get("selected", ())))
    of_all = f"(all {described['layers']}: {times(described['cost_all'])})"
    yield f"Of {described['layers']} layers, {number} are perturbed" + (
        ":" if number and "selected" in described else "."
    )
    if "number" in described:
        yield (
            "A step takes, in units of the work of one of the base optimizer,\n"
            f"about from {times(described['cheap'])} for the cheapest {number} "
            f"to {times(described['dear'])} for the dearest {of_all}."
        )
        return
    yield from (f"  {path}" for path in described["selected"])
    yield (
        f"A step takes {times(described['cost'])} times the work of one of the "
        f"base optimizer {of_all}."
    )
    if "not_counted" in described:
        others = ", ".join(
            f"{name}={value}"
            for name, value in described["not_counted"].items()
        )
        yield (
            "That is a step of two gradients. What else the file says is not "
            f"counted (see the method's card): {others}."
        )
