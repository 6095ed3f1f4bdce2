"""How functional networks of Keras call their operations."""

import keras
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._lending import with_attributes


def functional_parts(layers):
    """The functional networks among some layers, or inside sequential ones.

    None where one is called again on the way back (`keras.RematScope`): it must
    do then what it did.
    """
    layers = list(layers)
    models = [layer for layer in layers if isinstance(layer, keras.Model)]
    if any(map(_keras.is_rematerialized, models)):
        return []
    found = [getattr(layer, "_functional", None) or layer for layer in layers]
    return [part for part in found if isinstance(part, _keras.FUNCTION)]


def converted(network, inputs):
    """Inputs as a network converts them before it is called."""
    if not network._convert_input_args:
        return inputs

    def convert(part):
        return network.dtype_policy.convert_input(
            part, network.autocast, network.input_dtype
        )

    return tree.map_structure(convert, inputs)


def with_calls(networks, take, call):
    """Lets functional networks hand over what they would do themselves.

    Args:
        networks: List of functional networks.
        take: Function `(network, standardize, inputs)` to the tensors that it
            begins with; `standardize(inputs)` makes them.
        call: Function `(operation, run, args, kwargs)` to the outputs of an
            operation; `run(*args, **kwargs)` computes them.
    """

    def own(network):
        standardize = network._standardize_inputs
        run_through = network._run_through_graph

        def run(inputs, operation_fn=lambda operation: operation, **kwargs):
            def around(operation):
                inner = operation_fn(operation)
                return lambda *args, **kwargs: call(
                    operation, inner, args, kwargs
                )

            return run_through(inputs, operation_fn=around, **kwargs)

        return {
            "_standardize_inputs": lambda inputs: take(
                network, standardize, inputs
            ),
            "_run_through_graph": run,
        }

    return with_attributes([(network, own(network)) for network in networks])
