"""What a program of JAX computes twice, computed once.

XLA merges equal operations, but rewrites some copies before it looks. So the
step is evaluated anew, operation by operation, and one that was applied to the
same operands before is not applied again.
"""

import contextvars

import jax
import numpy as np
from jax.extend import core

# What only calls a program: it is evaluated in the place of the call.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


def called(equation):
    """The `Jaxpr` that an equation only calls, or `None`."""
    closed = _closed(equation)
    return getattr(closed, "jaxpr", closed)


def _closed(equation):
    name = _CALLS.get(equation.primitive.name)
    return None if name is None else equation.params[name]


# How often the network has been passed through in a program being traced.
_passes = contextvars.ContextVar("passes")


def note_pass():
    """To be called for each pass through the network."""
    if (passes := _passes.get(None)) is not None:
        passes.append(None)


def merged(function, *arguments):
    """`function(*arguments)`, where equal operations are computed once.

    Those of one pass stay as they are: there XLA rounds as it does without.

    To be called while it is traced; what is differentiated must be
    differentiated inside.
    """
    token = _passes.set([])
    try:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        is_one = len(_passes.get()) == 1
    finally:
        _passes.reset(token)
    given = jax.tree.leaves(arguments)
    if is_one:
        results = core.jaxpr_as_fun(closed)(*given)
    else:
        results = _Evaluation().evaluate(closed.jaxpr, closed.consts, given)
    return jax.tree.unflatten(jax.tree.structure(shape), results)


class _Evaluation:
    """Values by the operation and the operands that they are made of."""

    def __init__(self):
        self._known = {}
        # Ids are unique while what they are the ids of is alive.
        self._kept = []

    def evaluate(self, program, constants, arguments):
        """The results of a `Jaxpr`."""
        values = {}

        def read(atom):
            if isinstance(atom, core.Literal):
                return self._constant(atom.val, atom.aval)
            return values[atom]

        for variable, value in zip(program.constvars, constants, strict=True):
            values[variable] = self._constant(value, variable.aval)
        values.update(zip(program.invars, arguments, strict=True))
        for equation in program.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self._apply(equation, operands)
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in program.outvars]

    def _apply(self, equation, operands):
        program = called(equation)
        if program is not None:
            constants = getattr(_closed(equation), "consts", ())
            return self.evaluate(program, constants, operands)
        key = None
        if not equation.effects:
            name = equation.primitive.name
            key = (name, _key(equation.params), *map(id, operands))
            if key in self._known:
                return self._known[key]
        params = equation.primitive.get_bind_params(equation.params)
        with equation.ctx.manager:
            results = equation.primitive.bind(*operands, **params)
        if not equation.primitive.multiple_results:
            results = [results]
        if key is not None:
            self._known[key] = results
            self._kept.append((equation.params, operands, results))
        return results

    def _constant(self, value, aval):
        """A small constant, the same for all that are equal to it."""
        if isinstance(value, jax.core.Tracer) or np.size(value) > _SMALL:
            return value
        if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
            # A key of random numbers is no array.
            return value
        array = np.asarray(value)
        key = (str(aval), array.dtype.str, array.tobytes())
        return self._known.setdefault(key, value)


# Constants of so many numbers are compared: those of an initial state, not
# data.
_SMALL = 4096


def _key(value):
    """Something to compare parameters by."""
    if isinstance(value, dict):
        return tuple((k, _key(value[k])) for k in sorted(value))
    if isinstance(value, list | tuple):
        return (type(value), *map(_key, value))
    if isinstance(value, core.ClosedJaxpr):
        return (str(value.jaxpr), *map(id, value.consts))
    if isinstance(value, core.Jaxpr):
        return str(value)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
