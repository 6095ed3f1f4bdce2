"""Variables read as given values; what is assigned is only noted."""

import keras


class Pass(keras.StatelessScope):
    """The scope of one pass through a network.

    A weight that the network itself assigns while it is called (spectral
    normalisation does) continues as a new leaf, as it does in `fit`: its
    gradient is the sum over its leaves, and none flows through the assignment.

    Args:
        weights: List of the network's weights.
        at: List of their values.
        rest: Pairs of its other variables and their values.
        wrt: Indices of the weights to differentiate with respect to.
        constant: Function of a tensor to the same, to which no gradient flows.
        watch: Function of a value that a weight was assigned, with the weight's
            index, to the leaf that it continues as.

    Attributes:
        weights: List of the network's weights.
        assignments: Dict from the `id` of a variable to it and what it would
            have been assigned.
        leaves: Dict from the index of a weight to the tensors it stood for.
        listeners: List of what is told of the variables that are read, by
            `read(variable, value)`, and of those that are assigned, by
            `updated(variable, value)`.
    """

    def __init__(self, weights, at, rest, wrt, constant, watch):
        pairs = [*zip(weights, at, strict=True), *rest]
        super().__init__(pairs, collect_losses=True)
        # The scope would round float32 values to the dtype of the weight.
        self.state_mapping.update((id(v), value) for v, value in pairs)
        self.weights = weights
        self.listeners = []
        self.assignments = {}
        self.leaves = {index: [at[index]] for index in wrt}
        self._constant = constant
        self._watch = watch
        self._index = {id(weights[index]): index for index in wrt}

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            # Where variables hold no values themselves.
            value = self.original_scope.get_current_value(variable)
        for listener in self.listeners:
            listener.read(variable, value)
        return value

    def add_update(self, update):
        variable, value = update
        self.note(variable, self._constant(value))

    def note(self, variable, value):
        """Lets a variable stand for another value, which is a constant."""
        self.assignments[id(variable)] = (variable, value)
        index = self._index.get(id(variable))
        if index is not None:
            value = self._watch(value, index)
            self.leaves[index].append(value)
        for listener in self.listeners:
            listener.updated(variable, value)
        super().add_update((variable, value))
