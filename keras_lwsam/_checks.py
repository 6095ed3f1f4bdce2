"""Checks of the network that is to be trained."""

import keras

from keras_lwsam import _keras, _layers, _overrides


def network(model):
    """Refuses what is no built `keras.Model`, or trains in its own way."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a keras.Model. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    if not _overrides.hands_over(model, "train_step"):
        raise ValueError(
            f"`model` has a `train_step` of its own, in {type(model)}, which "
            "the sharpness-aware step would replace. Move what it does into "
            "`compute_loss` and `compute_metrics`, which are used; or let it "
            "end in `super().train_step(data)`. "
            f"Received: model={model.name!r}"
        )
    is_built(model)
    _reads_numbers(model)
    _holds_its_weights(model)


def _reads_numbers(model):
    """Refuses strings where only TensorFlow has tensors of them."""
    backend = keras.backend.backend()
    inputs = getattr(model, "inputs", None) or []
    strings = [each.name for each in inputs if each.dtype == "string"]
    if strings and backend != "tensorflow":
        raise ValueError(
            "`model` has inputs of strings, of which Keras makes tensors on "
            "TensorFlow only. Turn them into numbers in the data set, by "
            "`data.map`, or set KERAS_BACKEND=tensorflow. "
            f"Received: model={model.name!r}, with the inputs {strings}, "
            f"on {backend}"
        )


def _holds_its_weights(model):
    """Refuses modules of PyTorch, which read parameters and no variables."""
    found = [
        layer.name
        for layer in _keras.walk_layers(model)
        if isinstance(layer, keras.layers.TorchModuleWrapper)
    ]
    if found:
        raise ValueError(
            "`model` holds modules of PyTorch: they read their own parameters, "
            "whatever values a pass is to take place at. Write these layers "
            "with Keras. "
            f"Received: model={model.name!r}, with the TorchModuleWrapper "
            f"{found}"
        )


def hands_over_batches(model, method):
    """Refuses a method that needs what a network's own step makes of a batch.

    That step hands over the batch it was given, and not the one before.
    """
    own = _overrides.overrides(model, "train_step")
    if own and method.needs_previous_batch:
        raise ValueError(
            "`method` needs the batch before, too, and `model` has a "
            f"`train_step` of its own, in {type(model)}, which hands over one "
            "batch. Take a method that needs one, such as 'sam'. "
            f"Received: method={method!r}, model={model.name!r}"
        )


def is_built(model):
    """Refuses a model whose weights do not exist yet."""
    if not _keras.is_built(model):
        raise ValueError(
            "`model` must be built: its weights do not exist yet. Call it on "
            "a batch of data first, `model(x[:1])`, or give it an Input. "
            f"Received: model={model.name!r}"
        )


def is_compiled(model):
    """Refuses a model that has no loss."""
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled: its loss is what is looked at. Call "
            "`model.compile(loss=...)` first. "
            f"Received: model={model.name!r}, which is not compiled"
        )


def has_trainable_layer(model, layers):
    """Refuses a network of which nothing can be perturbed."""
    if not _layers.perturbable(layers, model.trainable_variables):
        raise ValueError(
            "`model` has no trainable layer. Set `trainable = True` on the "
            "layers to train, then compile. "
            f"Received: model={model.name!r}, whose layers with weights are "
            f"{[layer.path for layer in layers]}"
        )


def same_weights(model, weights):
    """Refuses a network that has weights which the wrapper never saw."""
    known = {id(v) for v in weights}
    new = [v.path for v in model.trainable_variables if id(v) not in known]
    if new:
        raise ValueError(
            "The network has gained weights since it was wrapped. Make those "
            "changes first, then a new LWSAMModel. "
            f"Received: new weights {new}"
        )


def same_strategy(model, wrapper):
    """Refuses a network made under another `tf.distribute` strategy."""
    of_network = _keras.distribute_strategy(model)
    of_wrapper = _keras.distribute_strategy(wrapper)
    if of_network != of_wrapper:
        raise ValueError(
            "The network and its `LWSAMModel` must be made under the same "
            "`tf.distribute` strategy. Move both constructors into one "
            "`with strategy.scope():` block. "
            f"Received: {of_network!r} and {of_wrapper!r}"
        )
