"""The only file that imports names which Keras does not make public."""

import functools
import inspect
import itertools

import keras
from keras.src import backend
from keras.src.ops.function import Function
from keras.src.optimizers import base_optimizer
from keras.src.trainers import data_adapters

from keras_lwsam._lending import with_attributes

# What functional networks, and all optimizers, are.
FUNCTION = Function
BASE_OPTIMIZER = base_optimizer.BaseOptimizer

# What `compile` leaves on a model for its steps, losses and metrics to use.
_COMPILED = ("_compile_loss", "_compile_metrics", "_loss_tracker")
_COMPILED += ("compiled", "optimizer")


def walk_layers(layer):
    """`layer` and all layers inside it, depth first, in order of creation."""
    return (inner for inner, _, _ in walk_paths(layer))


def walk_paths(layer):
    """The same with the path of each: the names of layers down to it.

    And with the layers that it lies in, from the outside, without the network
    at the top, as `(name, layer)` pairs.

    As in Keras's own paths, the name of a functional network at the top is
    left out. Keras's paths are not taken: they tell where a layer was built,
    and change when a network is saved and loaded.
    """
    seen = set()
    is_functional = getattr(layer, "_inputs_struct", None) is not None

    def walk(layer, path, owners):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield layer, path or layer.name, owners
        is_top = len(seen) == 1
        owners = () if is_top else (*owners, (layer.name, layer))
        for sublayer in layer._layers:
            prefix = f"{path}/" if path else ""
            yield from walk(sublayer, prefix + sublayer.name, owners)

    return walk(layer, "" if is_functional else layer.name, ())


def own_weights(layer):
    """The trainable weights that `layer` has and none of its sublayers.

    `trainable = False` on a layer does not change the answer.
    """
    inner = {
        id(variable)
        for sublayer in walk_layers(layer)
        if sublayer is not layer
        for variable in sublayer._trainable_variables
    }
    return [v for v in layer._trainable_variables if id(v) not in inner]


def seed_states(network):
    """The variables behind the random draws of `network`, in fixed order."""
    return [
        generator.state
        for layer in walk_layers(network)
        for generator in layer._seed_generators
    ]


def seed_dtype():
    """The type of the numbers that the backend draws from."""
    return backend.random_seed_dtype()


def reading_order(network):
    """Rank of each variable in the order in which a call reads them.

    Known where the network knows its inputs, as functional and sequential ones
    do. Elsewhere the order in which layers were made has to do.

    Returns:
        Dict from the `id` of a variable to its rank; empty if not known.
    """
    functional = getattr(network, "_functional", None) or network
    inputs = getattr(functional, "_inputs_struct", None)
    if inputs is None:
        return {}
    recorder = _ReadRecorder()

    def call_and_record(x):
        with recorder:
            return call(network, x, training=False)

    try:
        backend.compute_output_spec(call_and_record, inputs)
    except Exception:
        # PyTorch takes an open dimension to be 83, longer than a sequence of
        # some networks may be.
        recorder.first_reads.clear()
        short = keras.tree.map_structure(_short, inputs)
        backend.compute_output_spec(call_and_record, short)
    return {key: rank for rank, key in enumerate(recorder.first_reads)}


def _short(tensor):
    """A symbolic tensor like another, with few entries where it is open."""
    shape = tuple(8 if size is None else size for size in tensor.shape)
    return keras.KerasTensor(shape, tensor.dtype)


class _ReadRecorder(keras.StatelessScope):
    """Notes which variables are read inside it, in order."""

    def __init__(self):
        super().__init__()
        self.first_reads = {}

    def get_current_value(self, variable):
        self.first_reads.setdefault(id(variable))
        return super().get_current_value(variable)


def is_built(network):
    """Whether every layer that `network` calls has its variables.

    A functional network has called them when it was made. Others that it
    holds, such as a tokenizer, are none of its computation.
    """
    is_functional = getattr(network, "_inputs_struct", None) is not None
    layers = () if is_functional else walk_layers(network)
    return network.built and all(layer.built for layer in layers)


def distribute_strategy(model):
    """The strategy under whose scope `model` was made, or `None`."""
    return getattr(model, "_distribute_strategy", None)


def call(network, x, training):
    """`network(x)` as `fit` and `evaluate` of `keras.Model` call it."""
    if "training" in inspect.signature(network.call).parameters:
        return network(x, training=training)
    return network(x)


def compute_loss(network, x, y, y_pred, sample_weight, training):
    """The network's loss, whether or not its rule knows `training`."""
    return network._compute_loss(x, y, y_pred, sample_weight, training)


def build_compiled(model, iterator, unpack=None):
    """Creates what `compile` left for the first batch to shape.

    Variables of losses and metrics must not be created while a step is
    traced: their initial values would become constants of the step.

    Args:
        model: A compiled model.
        iterator: Iterator over batches.
        unpack: Function that makes `(x, y, sample_weight)` of a batch.

    Returns:
        An iterator over the same batches.
    """
    parts = (model._compile_loss, model._compile_metrics)
    if all(part is None or part.built for part in parts):
        return iterator
    spec = getattr(iterator, "element_spec", None)
    if spec is None:
        spec = next(iterator)
        iterator = itertools.chain([spec], iterator)
    model._symbolic_build(data_batch=unpack(spec) if unpack else spec)
    return iterator


def data_adapter(x, y, sample_weight, batch_size):
    """Keras's view of whatever `evaluate` takes as data."""
    return data_adapters.get_data_adapter(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        shuffle=False,
    )


def batches_of(adapter):
    """The batches of a `data_adapter`, as the backend takes them."""
    if backend.backend() == "tensorflow":
        return adapter.get_tf_dataset()
    return adapter.get_numpy_iterator()


def track_loss(model, loss, x):
    """Counts a batch's loss in the `loss` of the logs."""
    first = next(part for part in keras.tree.flatten(x) if part is not None)
    model._loss_tracker.update_state(
        loss, sample_weight=keras.ops.shape(first)[0]
    )


def begin_at(model, epoch):
    """Lets the `fit` that has just begun start at an epoch; `None`: as told."""
    model._initial_epoch = epoch


def has_metrics_of_keras(network):
    """Whether its metrics are counted, and read, as `keras.Model` does."""
    return all(
        getattr(type(network), name) is getattr(keras.Model, name)
        for name in ("compute_metrics", "get_metrics_result", "metrics")
    )


def compile_arguments(network):
    """What `network` was compiled with, with a new optimizer like its own."""
    arguments = dict(network._compile_config.config)
    optimizer = arguments["optimizer"]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        anew = type(optimizer).from_config(optimizer.get_config())
        own = vars(optimizer).items()
        vars(anew).update({k: v for k, v in own if "_exclude_" in k})
        arguments["optimizer"] = anew
    return arguments


def with_own_step(model):
    """Lets Keras compile `model.train_step` as if it never had before.

    JAX knows a program again by its function, so each has its own. On PyTorch
    it is not compiled: `torch.compile` cannot differentiate twice through what
    two passes have in common.
    """
    step = functools.partial(type(model).train_step, model)
    lent = {"train_step": step, "_should_torch_compile": lambda: False}
    return with_attributes([(model, lent)])


def leave_state(model, state):
    """Lets variables have these values when `fit` on JAX ends by an error.

    Keras only knows of those that a step has returned, and of none before the
    first one.
    """
    names = ("trainable", "non_trainable", "optimizer", "metrics")
    model._jax_state = {
        f"{name}_variables": values
        for name, values in zip(names, state, strict=True)
    }


def is_rematerialized(layer):
    """Whether a layer is called again on the way back, with those inside."""
    return getattr(layer, "_remat_mode", None) is not None


def lend_compiled(model, network):
    """Lets `network` compute losses and metrics as `model` was compiled.

    A network may override `compute_loss` or `compute_metrics`; those must run,
    on the network, with the losses and metrics given to the wrapper.
    """
    lent = {name: vars(model)[name] for name in _COMPILED}
    if model._losses_override:
        # What layers have added, in an evaluation on JAX.
        lent["_losses_override"] = model._losses_override
    return with_attributes([(network, lent)])


def in_float32(layers):
    """Lets `layers` of 16-bit weights compute in float32, 16 bits outside.

    A perturbation of a bfloat16 weight is mostly smaller than half a unit in
    its last place. In 16 bits it would round to nothing; so the layers that
    are perturbed take float32 weights, and hand on what they always do.
    """
    policy = keras.dtype_policies.DTypePolicy("float32")
    return with_attributes(
        [
            (
                layer,
                {
                    "call": _casting_back(layer.compute_dtype, layer.call),
                    "_dtype_policy": policy,
                },
            )
            for layer in layers
        ]
    )


def wholly_in_float32(network):
    """Lets all layers of 16 bits compute in float32, and hand that on."""
    policy = keras.dtype_policies.DTypePolicy("float32")
    return with_attributes(
        [
            (layer, {"_dtype_policy": policy})
            for layer in walk_layers(network)
            if layer.compute_dtype in ("float16", "bfloat16")
        ]
    )


def _casting_back(dtype, call):
    def cast(output):
        if keras.backend.is_float_dtype(keras.ops.dtype(output)):
            return keras.ops.cast(output, dtype)
        return output

    def call_and_cast(*args, **kwargs):
        return keras.tree.map_structure(cast, call(*args, **kwargs))

    return call_and_cast


NO_SAMPLE_LOSSES = (
    "This method needs the loss of every sample, and the loss has none: it is "
    "one number for the whole batch, or does not use `sample_weight`. Compile "
    "with a loss that returns a value for each sample, as those of "
    "`keras.losses` do, or take a method that needs none, such as 'sam'."
)


def per_sample(model, has_positions):
    """Lets compiled losses have one value for each sample, or refuses them.

    A loss that has one for each position of a sample is averaged over those,
    unless the weights of samples are those of positions.
    """
    compiled = model._compile_loss
    specs = getattr(compiled, "_flat_losses", None) or ()
    losses = [spec[1] for spec in specs if spec[1] is not None]
    for loss in losses:
        if loss.reduction not in ("sum", "mean", "sum_over_batch_size"):
            raise ValueError(
                f"{NO_SAMPLE_LOSSES} Received: a loss of the reduction "
                f"{loss.reduction!r}"
            )
    losses = () if has_positions else losses
    return with_attributes(
        [(loss, {"call": _one_value_each(loss.call)}) for loss in losses]
    )


def _one_value_each(call):
    def call_and_average(*args, **kwargs):
        values = call(*args, **kwargs)
        rank = len(values.shape)
        if rank == 0:
            raise ValueError(NO_SAMPLE_LOSSES)
        if rank == 1:
            return values
        # A loss may make a mask of its own.
        refuse_masks(values)
        return keras.ops.mean(values, axis=tuple(range(1, rank)))

    return call_and_average


def refuse_masks(tensors):
    """Refuses masks over positions: their loss is no mean over positions."""
    for tensor in keras.tree.flatten(tensors):
        mask = backend.get_keras_mask(tensor)
        if mask is not None and len(mask.shape) > 1:
            raise ValueError(
                f"{NO_SAMPLE_LOSSES} Received: a mask over the positions "
                "of a sample, without weights of positions"
            )


def keeping_mask(change, prediction):
    """`change(prediction)`, with the mask of the prediction."""
    if prediction is None:
        return None
    changed = change(prediction)
    mask = backend.get_keras_mask(prediction)
    if mask is not None:
        backend.set_keras_mask(changed, mask)
    return changed


def without_regularization(network):
    """Lets `network` have no regularization and no `add_loss`."""
    nothing = [keras.ops.zeros(())]
    return with_attributes([(network, {"_losses_override": nothing})])
