"""`LWSAMModel`: sharpness-aware training of any Keras model by `fit`."""

import functools
import inspect

import keras
from keras import ops

from keras_lwsam import (
    _arguments,
    _checks,
    _engines,
    _keras,
    _layers,
    schedules,
    step,
)
from keras_lwsam import methods as methods_module
from keras_lwsam import selection as selection_module
from keras_lwsam._adaptation import Adaptation
from keras_lwsam._delegation import DelegatesToNetwork
from keras_lwsam._fitting import EpochBegin, with_callback
from keras_lwsam._overrides import around, overrides
from keras_lwsam._pricing import HasPrices, Prices
from keras_lwsam._saving import SavesTraining
from keras_lwsam._state import State
from keras_lwsam._training import Training
from keras_lwsam._watching import IsWatched
from keras_lwsam._workers import TrainsOnWorkers, check_agreement


@keras.saving.register_keras_serializable(package="keras_lwsam")
class LWSAMModel(
    DelegatesToNetwork,
    HasPrices,
    IsWatched,
    SavesTraining,
    TrainsOnWorkers,
    keras.Model,
):
    r"""Trains a Keras model with (layer-wise) sharpness-aware minimization.

    Every step evaluates the gradient at the weights w, moves the weights of
    the selected layers S by a perturbation, and steps along the gradient at
    the moved weights (see `methods` for the family of rules):

    $$ \epsilon_S = \rho \, \frac{\nabla_S L(w)}{\lVert \nabla_S L(w) \rVert_2},
       \qquad
       w \leftarrow \mathrm{optimizer}(w, \nabla L(w + \epsilon)) $$

    Everything upstream of the first selected layer is computed once. The
    weights themselves are never moved: the network is called with the moved
    values in their place.

    The wrapper is an ordinary `keras.Model`: `compile`, `fit`, `evaluate`,
    `predict`, callbacks, `save` and `keras.saving.load_model` work. The
    network is trained in place and stays available as `model`. What it does
    around these methods of Keras it still does, as the tasks of KerasHub
    preprocess raw strings and images. A network that is compiled need not be
    compiled again: the wrapper takes its loss and metrics, and an optimizer of
    the same configuration, unless Keras cannot make one.

    Args:
        model: The network: any built `keras.Model`.
        method: Name of a method, such as `"sam"`, or a `methods.Method`.
            Defaults to `"sam"`.
        rho: Radius of the perturbation, a non-negative float, for a method
            given by name. Defaults to the method's own.
        layers: Which layers are perturbed. `None`: the default,
            `selection.LargestGradientNorm(0.25)`; an int: so many layers of
            the largest gradient norm; a float in (0, 1]: that share of them;
            `"15%"`: those that make a step at most 15 % slower; `"all"`;
            `"head"`, `"last_blocks:2"` or `"normalization"`; a layer path, a
            regular expression on layer paths, or a list of those; or a
            `selection.Selection`.
        perturbation_norm: `"selected"`: the gradient norm over the selected
            layers divides, so that the perturbation has length `rho`.
            `"all"`: the gradient norm of the whole network divides, as if all
            layers were selected; needs a full clean backward pass. Defaults
            to `"selected"`.
        sync_perturbation: Under `tf.distribute`: `False`, each replica is
            perturbed along its own gradient (m-sharpness); `True`, all along
            the gradient of the global batch, as the devices of
            `keras.distribution` always are. Defaults to `False`.
        sharpness_metrics: Whether `sharpness` (loss at the perturbed weights
            minus loss) and `gradient_norm` (norm over the selected layers of
            the gradient that the perturbation was made of), both averaged over
            the epoch, are logged with the other metrics. Defaults to `True`.
        schedule: A `schedules.Schedule`, which says when to perturb; the
            other steps are those of the base optimizer. Defaults to `None`:
            always.
        num_batch_splits: Number of parts of the batch that are perturbed each
            by itself (m-sharpness); their gradients are averaged. Defaults to
            `None`: the whole batch.
        name: Name of the wrapper.
        **kwargs: Further arguments of `keras.Model`, such as `trainable`.

    Attributes:
        model: The network.
        method: The `methods.Method`.
        selection: The `selection.Selection`.
        layer_paths: Paths of the layers that can be perturbed, input side
            first. A layer is one that owns trainable weights itself.
        selected_layers: Paths of those that are perturbed now.
        layer_gradient_norms: Dict from layer path to the L2 norm of its
            gradient in the latest step; zeros before the first. Steps
            without perturbation are measured under a `LayerNormTracker` only.
        trace_count: How often the training step was traced since `compile`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `model` is not built, has no trainable layer or a
            `train_step` that does not end in that of Keras, if `layers`
            selects nothing or is ambiguous, or if `rho` is given together with
            a `Method`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import LWSAMModel
    >>> network = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(3, name="logits"),
    ... ])
    >>> model = LWSAMModel(network, layers=1, rho=0.05)
    >>> model.compile(
    ...     "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ... )
    >>> x, y = np.ones((16, 4)), np.zeros(16)
    >>> history = model.fit(x, y, epochs=2, verbose=0)
    >>> sorted(history.history)
    ['gradient_norm', 'loss', 'sharpness']

    References:
        Lee: layer-wise gradient norm penalizing, KDD 2024, arXiv:2503.14205.
    """

    def __init__(
        self,
        model: keras.Model,
        method: str | methods_module.Method = "sam",
        rho: float | None = None,
        layers=None,
        *,
        perturbation_norm: str = "selected",
        sync_perturbation: bool = False,
        sharpness_metrics: bool = True,
        schedule: schedules.Schedule | None = None,
        num_batch_splits: int | None = None,
        name: str | None = None,
        **kwargs,
    ):
        engine = _engines.current()
        _checks.network(model)
        method = methods_module.get(method, rho)
        program = methods_module.compose(method, schedule, num_batch_splits)
        _checks.hands_over_batches(model, program)
        selection = selection_module.get(layers)
        all_layers = _layers.all_layers(model)
        _checks.has_trainable_layer(model, all_layers)
        _arguments.choice(
            "perturbation_norm", perturbation_norm, ("selected", "all")
        )
        prices = Prices(model, self, perturbation_norm == "all")
        adaptation = Adaptation(
            selection, all_layers, model.trainable_variables, prices.of_weights
        )
        _arguments.boolean("sync_perturbation", sync_perturbation)
        _arguments.boolean("sharpness_metrics", sharpness_metrics)

        # The network casts its own inputs; loss scaling goes by its policy.
        kwargs = {"dtype": model.dtype_policy, "autocast": False, **kwargs}
        super().__init__(name=name, **kwargs)
        _checks.same_strategy(model, self)
        self.model = model
        self.method = method
        self.selection = selection
        self.perturbation_norm = perturbation_norm
        self.sync_perturbation = sync_perturbation
        self.sharpness_metrics = sharpness_metrics
        self.schedule = schedule
        self.num_batch_splits = num_batch_splits
        self.supports_masking = True
        self.trace_count = 0
        self._engine_class = engine
        self._adaptation = adaptation
        self._prices = prices
        self._state = State(
            self.add_weight,
            len(self._weights_of_network),
            program.initial_state(self._weights_of_network),
        )
        self._training = Training(program, adaptation, self._state, engine)
        names = ("sharpness", "gradient_norm") if sharpness_metrics else ()
        self._reported = {n: keras.metrics.Mean(name=n) for n in names}
        self.built = True
        self._compile_as(model)

    @property
    def layer_paths(self) -> list[str]:
        return self._adaptation.layer_paths

    @property
    def selected_layers(self) -> list[str]:
        return self._adaptation.selected_paths

    # Not attributes: Keras would track them before the network, and order the
    # variables of the wrapper, and so those of its optimizer, another way.
    @property
    def _weights_of_network(self):
        layers = self._adaptation.all_layers
        return [weight for layer in layers for weight in layer.weights]

    @property
    def _layer_of(self):
        layers = self._adaptation.all_layers
        return [layer.layer for layer in layers for _ in layer.weights]

    @property
    def metrics(self):
        return super().metrics + list(self._reported.values())

    def train_step(self, *arguments):
        """One sharpness-aware step on one batch."""
        # JAX hands over the state of all variables, too.
        *state, data = arguments
        self.trace_count += self._engine_class.is_tracing()
        batch, previous = self._training.batches_of(data)
        take = functools.partial(self._take_step, previous)
        take = self._engine_class.step(self, take)
        # A step of the network's own may look at metrics and optimizer.
        with _keras.lend_compiled(self, self.model):
            return around(self.model, "train_step", take)(*state, batch)

    def _take_step(self, previous, batch):
        training = self._training
        weights = self._weights_of_network
        trained = {id(v) for v in self.trainable_variables}
        selected = self._adaptation.weight_indices()
        ascent = selected
        if self.perturbation_norm == "all":
            ascent = self._adaptation.perturbable_indices()
        engine = self._engine_class(
            network=self.model,
            compute_loss=self.compute_loss,
            per_sample=functools.partial(_keras.per_sample, self),
            optimizer=self.optimizer,
            weights=weights,
            layer_of=self._layer_of,
            dense=ascent,
            synchronize=self.sync_perturbation,
        )
        memory = self._state.memory()
        now = step.Step(
            engine,
            batch=keras.utils.unpack_x_y_sample_weight(batch),
            previous_batch=keras.utils.unpack_x_y_sample_weight(previous),
            state=memory,
            time=self._state.time(),
            phase=training.method.phase(training.clock),
            loss=self.loss,
            variables=weights,
            layers=self._layer_of,
            weights=[i for i, v in enumerate(weights) if id(v) in trained],
            selected=selected,
            ascent=ascent,
        )
        update = step.run(training.method, now)
        counted = now.counted
        engine.assign(counted.assignments)
        norms = is_finite = None
        if training.measures:
            norms, is_finite = step.measured(engine, update)
        engine.apply(
            update.gradients, self.trainable_variables, is_finite, update.active
        )
        if update.displacement is not None:
            engine.displace(update.displacement, is_finite)
        if training.measures:
            state = step.settled(now, update)
            self._state.keep(engine.remember, norms, is_finite, memory, state)
            if training.watched:
                seen = step.viewed(engine, now, update)
                self._state.keep_views(seen, is_finite)
            for name, metric in self._reported.items():
                value = getattr(update, name)
                value = ops.cast(0.0 if value is None else value, "float32")
                known = ops.logical_and(is_finite, ops.isfinite(value))
                # Nothing is counted in a step in which the data end.
                with engine.after(counted.loss):
                    metric.update_state(ops.where(known, value, 0.0))
        with engine.after(counted.loss):
            self._state.advance()
        reported = {name: m.result() for name, m in self._reported.items()}
        return self._log(counted, batch) | reported

    def _log(self, counted, batch):
        """Counts the loss and metrics of an evaluation, and reads them."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
            batch if counted.batch is None else counted.batch
        )
        if counted.weight:
            _keras.track_loss(self, counted.loss, x)
            results = self.compute_metrics(
                x, y, counted.predictions, sample_weight
            )
        else:
            results = keras.tree.map_structure(
                ops.zeros_like, self.get_metrics_result()
            )
        if counted.weight in (0.0, 1.0):
            return results
        # The mean over the replicas is that over those that count.
        return keras.tree.map_structure(
            lambda result: ops.cast(counted.weight, ops.dtype(result)) * result,
            results,
        )

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return self.train_function
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        _checks.same_weights(self.model, self._weights_of_network)
        _checks.has_trainable_layer(self.model, self._adaptation.all_layers)
        self._adaptation.follow(self.model.trainable_variables)
        self.trace_count = 0
        make_function = super().make_train_function

        def make_step():
            with _keras.with_own_step(self):
                make_function(force=True)
            compiled, self.train_function = self.train_function, train_function
            return compiled

        train_function = self._training.function(self, make_step)
        self.train_function = train_function
        return train_function

    def refresh_selection(self) -> list[str]:
        """Chooses the layers to perturb again, from the norms seen so far.

        `fit` does this as the selection's `refresh` says. A loop of one's own
        over `train_on_batch` may call it at the end of its epochs.

        Returns:
            The paths of the selected layers.
        """
        self._training.refresh()
        return self.selected_layers

    def _begin_epoch(self, *when):
        self._training.begin_epoch(*when)
        check_agreement(self, self._training.position())

    def fit(self, *args, **kwargs):
        callback = EpochBegin(self._begin_epoch)
        try:
            with with_callback(self, args, kwargs, callback) as arguments:
                run = around(self.model, "fit", super().fit)
                return run(**arguments)
        finally:
            # Callbacks that an exception cut short could not clean up.
            self._training.end()
            _keras.begin_at(self, None)

    fit.__doc__ = keras.Model.fit.__doc__
    fit.__signature__ = inspect.signature(keras.Model.fit)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        model = serialize(self.model)
        if overrides(self.model, "compile"):
            # Keras would warn that it does not call it.
            model.pop("compile_config", None)
        return {
            "model": model,
            "method": serialize(self.method),
            "layers": serialize(self.selection),
            "perturbation_norm": self.perturbation_norm,
            "sync_perturbation": self.sync_perturbation,
            "sharpness_metrics": self.sharpness_metrics,
            "schedule": serialize(self.schedule),
            "num_batch_splits": self.num_batch_splits,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("model", "method", "layers", "schedule"):
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)
