"""What the wrapper hands on to the network that it trains."""

import functools

import keras

from keras_lwsam import _keras
from keras_lwsam._optimizers import of_any_backend
from keras_lwsam._overrides import (
    around,
    by_name,
    delegated,
    handed_over,
    overrides,
)


class DelegatesToNetwork:
    """Mixed into a `keras.Model` that has a network as `model`.

    Calls, losses and metrics are the network's own, with what the wrapper was
    compiled with. What the network does around the methods of `keras.Model`,
    such as preprocessing, is done around those of the wrapper.
    """

    evaluate = delegated("evaluate")
    predict = delegated("predict")
    train_on_batch = delegated("train_on_batch")
    test_on_batch = delegated("test_on_batch")
    predict_on_batch = delegated("predict_on_batch")

    def _next(self, name):
        """The method `name` of the bases behind this one."""
        return getattr(super(), name)

    @functools.wraps(keras.Model.compile)
    def compile(self, *args, **kwargs):
        given = by_name("compile", args, kwargs)
        around(self.model, "compile", self._next("compile"))(**given)
        self._remember(given)

    def _compile_as(self, network):
        """Compiles as a network is compiled, if it is."""
        if not network.compiled:
            return
        try:
            arguments = _keras.compile_arguments(network)
        except (NotImplementedError, TypeError, ValueError):
            # Its class or its schedule is not known to Keras. The wrapper stays
            # uncompiled, and whoever trains it is told to compile.
            return
        self._next("compile")(**arguments)
        self._remember(None)

    def _remember(self, given):
        """What a `compile` of the network's own was given, if it was."""
        # Not by `setattr`: Keras would track the metrics in it once more.
        own = overrides(self.model, "compile")
        vars(self)["_given"] = given if own else None

    def get_compile_config(self):
        """How to compile again."""
        given = vars(self).get("_given")
        if given is None:
            config = super().get_compile_config()
        else:
            config = {"given": keras.saving.serialize_keras_object(given)}
        return of_any_backend(config)

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` describes."""
        config = of_any_backend(config)
        config = keras.saving.deserialize_keras_object(config)
        if "given" in config:
            self.compile(**config["given"])
        else:
            self._next("compile")(**config)
        self.optimizer.build(self.trainable_variables)

    def unpack(self, data):
        """The batch that a `train_step` of the network's own hands over."""
        return handed_over(self.model, "train_step", data)["data"]

    def call(self, inputs, training=None):
        return _keras.call(self.model, inputs, training)

    def compute_loss(
        self,
        x=None,
        y=None,
        y_pred=None,
        sample_weight=None,
        training=True,
    ):
        with _keras.lend_compiled(self, self.model):
            return _keras.compute_loss(
                self.model, x, y, y_pred, sample_weight, training
            )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        with _keras.lend_compiled(self, self.model):
            return self.model.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, *arguments):
        # JAX hands over the state of all variables, too.
        run = self._next("test_step")
        with _keras.lend_compiled(self, self.model):
            return around(self.model, "test_step", run)(*arguments)

    def predict_step(self, *arguments):
        run = self._next("predict_step")
        return around(self.model, "predict_step", run)(*arguments)

    @property
    def metrics(self):
        with _keras.lend_compiled(self, self.model):
            return list(self.model.metrics)

    @property
    def output_names(self):
        return self.model.output_names

    def get_layer(self, name=None, index=None):
        """The network's layer of this name or index."""
        return self.model.get_layer(name=name, index=index)

    def export(self, *args, **kwargs):
        """Exports the network, as its own `export` does."""
        return self.model.export(*args, **kwargs)

    def summary(self, *args, **kwargs):
        """Prints a summary of the network."""
        return self.model.summary(*args, **kwargs)
