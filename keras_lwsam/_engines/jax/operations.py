"""What one pass through a network computes, and on which weights it depends."""

import jax
from jax.extend import core
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines.jax import flops
from keras_lwsam._engines.jax.programs import called
from keras_lwsam._engines.operations import (
    Dependence,
    Operation,
    as_one,
    described,
    union,
)
from keras_lwsam._engines.scopes import Pass


def of_network(network, inputs, weights) -> list[Operation]:
    """The operations that a network's predictions and losses are made of.

    Nothing is computed: the network is traced.

    Args:
        network: A built `keras.Model`.
        inputs: Structure of anything with a shape, all dimensions known, and a
            dtype.
        weights: List of Keras variables of the network.
    """
    known = {id(v) for v in weights}
    rest = [v for v in network.variables if id(v) not in known]

    def forward(x, at, others):
        scope = Pass(
            weights,
            at,
            list(zip(rest, others, strict=True)),
            range(len(at)),
            jax.lax.stop_gradient,
            lambda value, index: value,
        )
        with scope:
            predictions = _keras.call(network, x, training=True)
            return [*tree.flatten(predictions), *network.losses]

    x, at, others = (
        tree.map_structure(_described, part)
        for part in (inputs, list(weights), rest)
    )
    program = jax.make_jaxpr(forward)(x, at, others).jaxpr
    operands = [Dependence(data=True) for _ in tree.flatten(x)]
    for index in range(len(at)):
        own = frozenset([index])
        operands.append(Dependence(own, own))
    operands += [Dependence() for _ in others]
    return _follow(program, operands)[0]


def _described(like):
    return jax.ShapeDtypeStruct(like.shape, like.dtype)


def _follow(program, operands):
    """Operations that the results of a program are made of.

    Args:
        program: A `Jaxpr`.
        operands: List of what its arguments depend on.

    Returns:
        The list of `Operation`s, and the list of what the results depend on.
    """
    needed = _upstream(program, lambda equation, variable: True)
    receiving = _upstream(program, _passes_gradient)
    dependences = {v: Dependence() for v in program.constvars}
    dependences.update(zip(program.invars, operands, strict=True))
    found = []

    def of(atom):
        if isinstance(atom, core.Literal):
            return Dependence()
        return dependences[atom]

    for equation in program.eqns:
        if id(equation) not in needed:
            continue
        read = [of(atom) for atom in equation.invars]
        if id(equation) not in receiving or _stops(equation):
            read = [d._replace(gradients=frozenset()) for d in read]
        inner, outcomes = _outcomes(equation, read)
        found += inner
        for variable, outcome in zip(equation.outvars, outcomes, strict=True):
            if not flops.is_float(variable.aval):
                outcome = outcome._replace(gradients=frozenset())
            dependences[variable] = outcome
    return found, [of(atom) for atom in program.outvars]


def _outcomes(equation, operands):
    """An operation, and those inside it; what each of its results depends on.

    Args:
        equation: A `JaxprEqn`.
        operands: List of what its operands depend on.
    """
    kind = equation.primitive.name
    if (program := called(equation)) is not None:
        return _follow(program, operands)
    if kind == "scan":
        return _scan(equation, operands)
    if kind == "while":
        return _while(equation, operands)
    if kind == "cond":
        return _branches(equation, operands)
    outcome = union(operands)
    found = described(
        kind,
        flops.work(equation),
        operands,
        outcome,
        flops.is_product(equation),
    )
    return [found], [outcome] * len(equation.outvars)


def _scan(equation, operands):
    """Its body, as often as it runs, once what it depends on is settled."""
    params = equation.params
    constants, carried = params["num_consts"], params["num_carry"]
    body = params["jaxpr"].jaxpr
    found, outcomes, read = _settled(body, operands, constants, carried)
    times = params["length"]
    found = [o._replace(work=times * o.work) for o in found]
    # The first of two passes may not be differentiated by all that the second
    # one is: then it is another scan.
    return as_one(found, outcomes, read, again=True)


def _while(equation, operands):
    """Its body, once: how often it runs is not known."""
    params = equation.params
    constants = params["body_nconsts"]
    own = operands[params["cond_nconsts"] :]
    body = params["body_jaxpr"].jaxpr
    carried = len(own) - constants
    found, outcomes, read = _settled(body, own, constants, carried)
    return as_one(found, outcomes, read, again=True)


def _settled(body, operands, constants, carried):
    """What a body finds when what it hands on depends on no more."""
    settled = None
    while settled != operands:
        settled = operands
        found, outcomes = _follow(body, operands)
        operands = list(operands)
        for i in range(carried):
            place = constants + i
            operands[place] = union([operands[place], outcomes[i]])
    return found, outcomes, operands


def _branches(equation, operands):
    """The branch of the most work; what any of them depends on."""
    decision, *operands = operands
    branches = [
        _follow(branch.jaxpr, operands)
        for branch in equation.params["branches"]
    ]
    found, _ = max(branches, key=lambda branch: sum(o.work for o in branch[0]))
    decision = decision._replace(gradients=frozenset())
    outcomes = [
        union([decision, *of_one])
        for of_one in zip(*(o for _, o in branches), strict=True)
    ]
    return as_one(found, outcomes, [decision, *operands], again=True)


def _upstream(program, passes):
    """Ids of the equations from which one comes to the results."""
    wanted = {v for v in program.outvars if not isinstance(v, core.Literal)}
    if passes is _passes_gradient:
        wanted = {v for v in wanted if flops.is_float(v.aval)}
    found = set()
    for equation in reversed(program.eqns):
        if not wanted.isdisjoint(equation.outvars):
            found.add(id(equation))
            wanted.update(
                atom
                for atom in equation.invars
                if not isinstance(atom, core.Literal) and passes(equation, atom)
            )
    return found


def _passes_gradient(equation, variable):
    return not _stops(equation) and flops.is_float(variable.aval)


def _stops(equation):
    return equation.primitive.name == "stop_gradient"
