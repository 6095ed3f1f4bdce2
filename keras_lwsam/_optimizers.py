"""What optimizers of Keras remember, and would do."""

import keras

from keras_lwsam import _keras
from keras_lwsam._lending import with_attributes

_OF_TORCH = "keras.src.backend.torch.optimizers."


def already_reduced(optimizer):
    """Lets an optimizer take gradients that are those of all replicas."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return with_attributes([(optimizer, {"_all_reduce_sum_gradients": list})])


def of_any_backend(config):
    """A configuration of what was compiled that all backends can read.

    On PyTorch an optimizer of Keras is of another class, and files of it name
    that class, which trains nowhere else.
    """
    if isinstance(config, list):
        return list(map(of_any_backend, config))
    if not isinstance(config, dict):
        return config
    config = {name: of_any_backend(part) for name, part in config.items()}
    module = config.get("module")
    if isinstance(module, str) and module.startswith(_OF_TORCH):
        config["module"] = "keras.optimizers"
    return config


def slots_of(optimizer, variable):
    """What an optimizer remembers of a variable: variables of its own."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    index = optimizer._get_variable_index(variable)
    count = len(optimizer._trainable_variables)
    lists = [
        value
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == count
        and name not in ("_trainable_variables", "_variables")
    ]
    return [
        slots[index]
        for slots in lists
        if isinstance(slots[index], keras.Variable)
    ]


def predict_update(optimizer, gradients, variables):
    """The values that an optimizer would leave, without leaving them.

    Where it accumulates gradients, or takes whole steps in a way of its own (as
    Nadam does): one step of plain gradient descent.

    Args:
        optimizer: A built optimizer.
        gradients: List of tensors or `None`, in the units of the loss.
        variables: Keras variables.

    Returns:
        List of tensors; `None` for a variable that is not updated.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = optimizer.learning_rate
    trained = {id(v) for v in optimizer._trainable_variables}
    pairs = [
        (g, v)
        for g, v in zip(gradients, variables, strict=True)
        if g is not None and id(v) in trained
    ]
    if optimizer.gradient_accumulation_steps or _takes_own_steps(optimizer):
        new = {
            id(v): v.value - keras.ops.cast(rate * g, v.dtype) for g, v in pairs
        }
        return [new.get(id(v)) for v in variables]
    # Only the backend's own ways with variables know no stateless scope.
    base = _keras.BASE_OPTIMIZER
    keys = {id(v): optimizer._var_key(v) for _, v in pairs}
    methods = {
        name: getattr(base, name).__get__(optimizer)
        for name in ("assign", "assign_add", "assign_sub")
    }
    methods["_var_key"] = lambda variable: keys[id(variable)]
    own = vars(optimizer)
    scope = _Onlooker()
    try:
        own.update(methods)
        with scope:
            clipped = optimizer._clip_gradients([g for g, _ in pairs])
            base._apply_weight_decay(optimizer, [v for _, v in pairs])
            for g, (_, v) in zip(clipped, pairs, strict=True):
                optimizer.update_step(g, v, rate)
            for _, v in pairs:
                if v.constraint is not None:
                    v.assign(v.constraint(v))
    finally:
        for name in methods:
            del own[name]
    new = {id(v): scope.get_current_value(v) for _, v in pairs}
    return [new.get(id(v)) for v in variables]


def _takes_own_steps(optimizer):
    """Whether its class, not only the backend, has a way to take a step."""
    return any(
        "_backend_update_step" in vars(kind)
        and kind is not _keras.BASE_OPTIMIZER
        and not kind.__module__.startswith("keras.src.backend.")
        for kind in type(optimizer).__mro__
    )


class _Onlooker(keras.StatelessScope):
    """A scope that sees the values of the one around it."""

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value
