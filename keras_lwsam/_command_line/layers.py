"""`layers`: the layers of a saved network, and what each would cost."""

import json
import math

from keras_lwsam._command_line import networks
from keras_lwsam._command_line.arguments import add_network
from keras_lwsam._tables import percent, table, times

TEXT = """\
The layers that can be perturbed, input side first: their weights, their share
of the parameters and of the work of a step, and what a step costs that perturbs
this layer alone, in units of a step of the base optimizer. SAM costs 2.

Operations are counted, not timed: the network is traced and not run.
"""
EXAMPLES = """\
examples:
  keras-lwsam layers network.keras
  keras-lwsam layers translator.keras --length 64
  keras-lwsam layers network.keras --json
"""


def add_to(commands):
    """Adds the command to the parser."""
    command = commands.add_parser(
        "layers",
        help="list the layers of a saved network",
        description=TEXT,
        epilog=EXAMPLES,
    )
    add_network(command)
    command.set_defaults(run=run)


def run(arguments):
    """Prints the table."""
    saved = networks.load(arguments)
    described = describe(saved)
    if arguments.json:
        print(json.dumps(described, indent=2))
        return
    name, layers = described["network"], described["layers"]
    print(
        f"{name}: {len(layers)} layers, {described['parameters']:,} trainable "
        "parameters\n"
    )
    print(table([*_rows(described)], left=3))
    if saved.wrapper:
        number = f"{len(saved.selected)} of {len(layers)}"
        print(f"\n* perturbed when the model was saved ({number})")


def describe(saved) -> dict:
    """What there is to say of a network, as JSON has it."""
    layers = saved.costs.layers
    total = sum(layer.parameters for layer in layers)
    selected = set(saved.selected)
    described = {
        "network": saved.network.name,
        "parameters": total,
        "work_share": sum(layer.share for layer in layers),
        "cost_all": saved.costs.predict(saved.costs.weights),
        "layers": [
            {
                "path": layer.path,
                "type": layer.kind,
                "shapes": [list(shape) for shape in layer.shapes],
                "parameters": layer.parameters,
                "parameter_share": layer.parameters / total,
                "work_share": layer.share,
                "cost_alone": layer.alone,
            }
            for layer in layers
        ],
    }
    if saved.wrapper:
        for layer in described["layers"]:
            layer["selected"] = layer["path"] in selected
    return described


def _rows(described):
    yield "layer", "type", "shape", "weights", "share", "work", "cost"
    for layer in described["layers"]:
        # A kernel says more than its bias.
        shape = max(layer["shapes"], key=lambda s: (len(s), math.prod(s)))
        yield (
            layer["path"] + ("*" if layer.get("selected") else ""),
            layer["type"],
            "x".join(map(str, shape)),
            f"{layer['parameters']:,}",
            percent(layer["parameter_share"]),
            percent(layer["work_share"]),
            times(layer["cost_alone"]),
        )
    yield (
        "all",
        "",
        "",
        f"{described['parameters']:,}",
        percent(1.0),
        percent(described["work_share"]),
        times(described["cost_all"]),
    )
