"""The course of training: what is decided between steps, in Python."""

import functools
import zlib
from typing import Any, NamedTuple

from keras_lwsam import _keras
from keras_lwsam._clock import Clock
from keras_lwsam._fitting import CompiledSteps
from keras_lwsam._overrides import overrides
from keras_lwsam._saving import from_store, to_store
from keras_lwsam.methods.composed import RESTS

_PREVIOUS = "previous_"


class BatchPair(NamedTuple):
    """What a step is given whose method needs the batch before, too."""

    batch: Any
    previous: Any


class SavedBatch(dict):
    """The arrays of a batch, from a file. A batch itself may be a dict."""


class Training:
    """Which step comes next, and what it is given.

    Args:
        method: The `methods.Method` that trains.
        adaptation: The `Adaptation` of the selection.
        state: The `State`.
        engine_class: The backend's, which says how batches are turned into
            arrays and back, and how the values of variables get from step to
            step.

    Attributes:
        clock: The `Clock` before the next step.
        watched: Whether somebody watches: gradients are measured in steps of
            the base optimizer too, and of each step what it saw.
    """

    def __init__(self, method, adaptation, state, engine_class):
        self.method = method
        self.adaptation = adaptation
        self.clock = Clock()
        # A step without perturbation is that of `fit` bit for bit. Measuring
        # its gradients would change the last bits: TensorFlow regroups the
        # factors of a product that only the optimizer reads.
        self.watched = False
        self._state = state
        self._perturbed = None
        self._batches = engine_class.batches
        self._carrier = engine_class.carrier
        # A batch, or a `SavedBatch`.
        self._previous = None

    @property
    def is_plain(self):
        """Whether the steps are those of the base optimizer."""
        return self.method.is_plain or not self.adaptation.selected

    @property
    def feeds_previous_batch(self):
        """Whether a step is given two batches, the newer one first."""
        return self.method.needs_previous_batch and not self.is_plain

    @property
    def measures(self):
        """Whether the next step measures its gradients."""
        return self.watched or not self.is_plain

    def variant(self, clock):
        """What a step is specialised to: layers, watching, and phase."""
        if self.is_plain:
            return ((), self.watched, None)
        phase = self.method.phase(clock)
        return (self.adaptation.selected, self.watched, phase)

    def function(self, model, make_step):
        """The function that Keras calls to take one step, or several.

        Args:
            model: The `LWSAMModel`.
            make_step: Function without arguments to a newly compiled step.
        """
        carrier = self._carrier(model)

        def make():
            # Keras looks at where the variables are.
            with carrier.variables():
                return carrier.step(make_step())

        compiled = CompiledSteps(make)
        strategy = _keras.distribute_strategy(model)
        unpack = None
        if overrides(model.model, "train_step"):
            unpack = functools.partial(self._batches.described, model.unpack)

        def take(iterator, count):
            variant = self.variant(self.clock)
            logs = compiled(variant)(iterator)
            self.clock = self.clock.after(count, idle=RESTS in variant)
            self.adaptation.steps += count
            return logs

        def take_singly(iterator, count):
            logs = None
            for _ in range(count):
                try:
                    batch = next(iterator)
                except StopIteration:
                    if logs is None:
                        raise
                    break
                feeds = self.feeds_previous_batch
                if feeds:
                    given = BatchPair(batch, self._before(batch, strategy))
                else:
                    given = batch
                logs = take(iter([given]), 1)
                # Not that of a step which has raised.
                if feeds:
                    self._previous = batch
            return logs

        def train_function(iterator):
            iterator = _keras.build_compiled(model, iterator, unpack)
            if self.adaptation.is_due(at_epoch=False):
                with carrier.variables():
                    self.refresh()
            self._note_perturbed()
            count = carrier.count(iterator)
            variants = {self.variant(self.clock.after(i)) for i in range(count)}
            several = carrier.takes_several and len(variants) == 1
            if self.feeds_previous_batch or not several:
                return take_singly(iterator, count)
            return take(iterator, count)

        return carrier.function(train_function)

    def _before(self, batch, strategy):
        """The batch before this one; in the first step, the same."""
        if isinstance(self._previous, SavedBatch):
            return self._batches.from_arrays(self._previous, batch, strategy)
        return batch if self._previous is None else self._previous

    def batches_of(self, data) -> BatchPair:
        """The batches of a step, from what it is given."""
        if not self.feeds_previous_batch:
            return BatchPair(data, data)
        if isinstance(data, BatchPair):
            return data
        raise ValueError(
            f"{self.method!r} needs the batch of the step before, which `fit` "
            "and `train_on_batch` keep. Train by one of them. Received: a "
            "direct call of `train_step` with one batch"
        )

    def refresh(self):
        """Chooses the layers again, from the norms seen so far."""
        squared_norms = self._state.window_mean()
        if squared_norms is None:
            return
        self.adaptation.refresh(squared_norms)
        self._state.begin_window()

    def _note_perturbed(self):
        """Counts the steps since other weights were chosen, or thawed."""
        indices = self.adaptation.weight_indices()
        if self._perturbed not in (None, indices):
            self.clock = self.clock._replace(since_selection=0)
        self._perturbed = indices

    def begin_epoch(self, epoch, epochs, steps_per_epoch):
        """What happens when an epoch of `fit` begins."""
        if self.adaptation.is_due(at_epoch=True):
            self.refresh()
        # Of several steps in one execution the last may have been missing.
        self.clock = self.clock._replace(step=self._state.steps_taken())
        self.clock = self.clock.at_epoch(epoch, epochs, steps_per_epoch)
        self._state.set_progress(self.clock)
        self._state.begin_epoch()

    def position(self) -> list[int]:
        """Where training stands, as numbers to compare."""
        selected = self.adaptation.to_array()
        return [*self.clock, zlib.crc32(selected.tobytes())]

    def end(self):
        """What happens when `fit` ends: the length of training is unknown."""
        self.watched = False
        self.clock = self.clock._replace(epochs=0, steps_per_epoch=0)
        self._state.set_progress(self.clock)

    def save(self, store, network):
        """Writes arrays to a store."""
        others = {
            "selection": self.adaptation.to_array(),
            "clock": self.clock.to_array(),
        }
        previous = self._previous
        if previous is not None and not isinstance(previous, SavedBatch):
            previous = self._batches.to_arrays(previous)
        for name, array in (previous or {}).items():
            others[_PREVIOUS + name] = array
        seeds = _keras.seed_states(network)
        arrays = to_store(self._state.variables, seeds, others)
        for name, array in arrays.items():
            store[name] = array

    def load(self, store, network):
        """Reads them back; an error leaves everything as it was."""
        variables = self._state.variables
        seeds = _keras.seed_states(network)
        names = store.keys()
        previous = [name for name in names if name.startswith(_PREVIOUS)]
        arrays = from_store(
            store, variables, seeds, ["selection", "clock", *previous]
        )
        self.adaptation.check_array(arrays["selection"])
        clock = Clock.from_array(arrays["clock"])
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{i}"])
        for i, seed in enumerate(seeds):
            seed.assign(arrays[f"seed_{i}"])
        self.adaptation.from_array(arrays["selection"])
        self._perturbed = self.adaptation.weight_indices()
        self.clock = clock
        saved = {
            name.removeprefix(_PREVIOUS): arrays[name] for name in previous
        }
        self._previous = SavedBatch(saved) if saved else None
