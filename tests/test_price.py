"""Nothing upstream of the cut is computed twice: counted, not timed."""

import functools

import pytest

from benchmarks import networks, operations
from keras_lwsam import LWSAMModel, selection
from tests.cases import daily
from tests.support import cross_entropy

pytestmark = pytest.mark.tensorflow

# Layers perturbed, from the output side, and the work downstream of the cut in
# one forward and one backward pass, counted by hand from the architecture.
TENTH = selection.OutputSide(0.1)


@functools.cache
def counts(name, way, xla):
    # XLA takes its time for six blocks, and treats two like six.
    depth = {"depth": 2} if xla and name != "resnet20" else {}
    network = networks.BUILDERS[name](**depth)
    model = network
    if way != "plain":
        model = LWSAMModel(
            network,
            **{
                "rho0": {"rho": 0.0},
                "sam": {"layers": "all"},
                "half": {"layers": selection.OutputSide(0.5)},
                "quarter": {"layers": selection.OutputSide(0.25)},
                "tenth": {"layers": TENTH},
                "norm of all": {
                    "layers": TENTH,
                    "perturbation_norm": "all",
                },
                "watched": {"layers": TENTH},
            }[way],
        )
        model.watched = way == "watched"
    model.compile("sgd", cross_entropy())
    x, y = networks.batch(network, 4)
    count = operations.compiled_by_xla if xla else operations.executed
    return count(model, x, y)


@pytest.mark.parametrize(
    ("name", "xla"),
    [
        ("resnet20", False),
        pytest.param("vit", False, marks=pytest.mark.exhaustive),
        pytest.param("resnet20", True, marks=pytest.mark.exhaustive),
        pytest.param("bert", False, marks=pytest.mark.exhaustive),
        pytest.param("vit", True, marks=pytest.mark.exhaustive),
        pytest.param("bert", True, marks=pytest.mark.exhaustive),
    ],
)
def test_plain_and_full(name, xla):
    plain = counts(name, "plain", xla)
    rho0 = counts(name, "rho0", xla)
    sam = counts(name, "sam", xla)
    kinds = [kind for kind in plain if kind != "random"]
    assert kinds
    for kind in kinds:
        assert rho0[kind] == plain[kind], kind
        assert sam[kind] == 2 * plain[kind], kind


@pytest.mark.parametrize(
    ("name", "way"),
    daily(
        [
            (name, way)
            for name in ("resnet20", "vit", "bert")
            for way in ("rho0", "sam", "tenth")
        ],
        lambda name, way: name == "resnet20" or (name, way) == ("vit", "tenth"),
    ),
)
def test_random_draws_are_those_of_one_pass(name, way):
    plain = counts(name, "plain", False)["random"]
    assert plain > 0
    assert counts(name, way, False)["random"] == plain


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", ["rho0", "sam", "tenth"])
def test_random_draws_are_those_of_one_pass_in_xla(way):
    """The generator's bit operations; fusions may repeat a few of them."""
    plain = counts("resnet20", "plain", True)["random"]
    assert plain > 100
    assert counts("resnet20", way, True)["random"] < 1.3 * plain


def test_resnet20_from_its_last_convolution_on():
    """The last tenth of the layers: one convolution, its norm, the logits."""
    plain = counts("resnet20", "plain", False)
    tenth = counts("resnet20", "tenth", False)
    assert (plain["convolution"], plain["convolution_backward"]) == (21, 41)
    # The cut is the norm before the last convolution: that convolution runs
    # forward twice, and twice backward, to its kernel and to its input.
    assert tenth["convolution"] == 21 + 1
    assert tenth["convolution_backward"] == 41 + 2
    assert tenth["product"] == 2 * plain["product"]


def test_resnet20_in_xla():
    assert counts("resnet20", "plain", True)["convolution"] == 62
    assert counts("resnet20", "tenth", True)["convolution"] == 65


@pytest.mark.parametrize(
    "name", ["vit", pytest.param("bert", marks=pytest.mark.exhaustive)]
)
def test_transformers_pay_for_what_is_downstream(name):
    """A block of self-attention has 8 products forward and 16 backward."""
    plain = counts(name, "plain", False)["product"]
    tenth = counts(name, "tenth", False)["product"]
    quarter = counts(name, "quarter", False)["product"]
    half = counts(name, "half", False)["product"]
    assert plain < tenth < quarter < half < 2 * plain
    assert tenth <= 1.10 * plain
    assert quarter <= 1.26 * plain
    assert half <= 1.53 * plain


def test_the_norm_of_all_layers_costs_a_full_backward_pass():
    """And no second forward pass of the prefix."""
    plain = counts("resnet20", "plain", False)
    full = counts("resnet20", "norm of all", False)
    assert full["convolution"] == plain["convolution"] + 1
    assert full["convolution_backward"] == 2 * plain["convolution_backward"]


def test_watching_the_layers_takes_no_pass_and_no_product():
    """A `LayerNormTracker` adds sums over weights, as an optimizer does."""
    assert counts("resnet20", "watched", False) == counts(
        "resnet20", "tenth", False
    )


def test_control_mutating_between_the_passes_would_cost_a_second_prefix():
    """The count sees what the design avoids."""
    sam = counts("resnet20", "sam", False)
    tenth = counts("resnet20", "tenth", False)
    assert sam["convolution"] > tenth["convolution"] + 10
