"""What the steps of a wrapped network cost, counted when it is first asked."""

from keras_lwsam import _arguments, _workers, costs, methods

# Those whose every step is two gradients of the whole batch, and no more.
_TWO_GRADIENTS = {
    methods.ASAM,
    methods.FriendlySAM,
    methods.GNP,
    methods.GSAM,
    methods.SAM,
    methods.StableSAM,
    methods.VaSSO,
    methods.WSAM,
}


def not_counted(wrapper) -> dict[str, str]:
    """What else an `LWSAMModel` does than steps of two gradients."""
    others = {
        "method": type(wrapper.method) not in _TWO_GRADIENTS,
        "schedule": wrapper.schedule is not None,
        "num_batch_splits": wrapper.num_batch_splits is not None,
    }
    return {
        n: repr(getattr(wrapper, n)) for n, other in others.items() if other
    }


class Prices:
    """The costs of a network, for `model.cost` and for selections.

    Args:
        network: The network.
        trainer: The model that trains it, whose steps are timed.
        of_all: Whether the first gradient is that of all layers, whichever are
            perturbed.
    """

    def __init__(self, network, trainer, of_all):
        self._network = network
        self._trainer = trainer
        self._of_all = of_all
        self._how = {"inputs": None, "batch_size": 32, "length": 128}
        self._known = {}

    def ask(self, timed, **how):
        """The `Costs` for a batch; what is asked later is of that batch.

        Args:
            timed: Whether they are corrected by a measurement.
            **how: `inputs`, `batch_size` and `length` of `layer_costs`.
        """
        found = self._count(timed, **how)
        self._how, self._known = how, {self._key(timed): found}
        return found

    def of_weights(self, perturbed, timed=False):
        """Cost of a step that perturbs some weights, by their positions.

        Nothing is timed before the model is compiled, as it would be again.
        """
        if timed:
            self._refuse_workers()
        # While it is being made, it does not even have the attribute.
        is_compiled = getattr(self._trainer, "compiled", False)
        return self._costs(timed and is_compiled).price(perturbed)

    def _costs(self, timed):
        key = self._key(timed)
        if key not in self._known:
            self._known[key] = self._count(timed, **self._how)
        return self._known[key]

    def _key(self, timed):
        """Other trained weights, and another optimizer, make other costs."""
        trained = frozenset(id(v) for v in self._network.trainable_variables)
        optimizer = getattr(self._trainer, "optimizer", None)
        return trained, timed and id(optimizer)

    def _count(self, timed, **how):
        if timed:
            self._refuse_workers()
        found = costs.of_network(
            self._network, **how, timed_as=self._trainer if timed else None
        )
        return found.adapted(of_all=True) if self._of_all else found

    def _refuse_workers(self):
        if _workers.spans_workers(self._network):
            raise ValueError(
                "Times differ from worker to worker, which would then perturb "
                "other layers. Leave `timed` out: operations are the same on "
                "all. Received: timed=True"
            )


class HasPrices:
    """The part of `LWSAMModel` that says what its steps cost."""

    def cost(
        self,
        inputs=None,
        *,
        batch_size: int = 32,
        length: int = 128,
        timed: bool = False,
    ) -> costs.ModelCosts:
        """What the steps of this model cost, layer by layer.

        The network is traced once (on PyTorch called once, on ones), and its
        operations are counted. See
        `keras_lwsam.costs` for what is counted, and for what is not. It is a
        step of two gradients: methods that evaluate more or fewer, schedules
        and splits of the batch have other prices (see the methods' cards).

        A selection that goes by prices (`selection.WithinBudget`) takes those
        that were asked for last, from its next refresh on.

        Args:
            inputs: A batch, or `keras.KerasTensor`s in its structure, for a
                network that does not know its inputs. Defaults to its own.
            batch_size: Number of samples where `inputs` leave it open.
                Defaults to `32`, as in `fit`.
            length: What any other open dimension is taken to be, such as the
                length of a sequence. Defaults to `128`.
            timed: Whether some steps are compiled and timed, in turn with
                plain ones, to correct what the operations say. That takes up to
                a minute more than compiling five steps, seconds on a machine
                that does nothing else; no variable changes.
                They run on one device, and never eagerly. In a compiled model
                the optimizer's update is timed too. Defaults to `False`.

        Returns:
            The `costs.ModelCosts`: for each layer its share of the work of a
            step of the base optimizer, and what perturbing it alone costs; and
            the overhead of the layers that are perturbed now.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the network does not know its inputs, or cannot be
                called on inputs of this size; or if it is timed on several
                workers, whose times differ.

        Example:

        >>> import keras
        >>> from keras_lwsam import LWSAMModel
        >>> network = keras.Sequential([
        ...     keras.Input((64,)),
        ...     keras.layers.Dense(64, name="hidden"),
        ...     keras.layers.Dense(64, name="logits"),
        ... ], name="network")
        >>> print(LWSAMModel(network, layers="50%").cost())
        layer            type   weights   work  cost alone
        network/hidden   Dense    4,160  40.1%        1.80
        network/logits*  Dense    4,160  59.9%        1.40
        <BLANKLINE>
        * perturbed now (1 of 2 layers): a step is predicted to be 40.1% slower
        """
        _arguments.boolean("timed", timed)
        found = self._prices.ask(
            timed, inputs=inputs, batch_size=batch_size, length=length
        )
        overhead = 0.0
        if not self._training.is_plain:
            selected = self._adaptation.weight_indices()
            overhead = found.price(selected) - 1.0
        return costs.ModelCosts(
            **vars(found),
            selected=tuple(self.selected_layers),
            overhead=overhead,
            not_counted=not_counted(self),
        )
