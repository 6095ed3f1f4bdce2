"""Other people's implementations, trained beside ours.

Run with `pytest -m peers` after `pip install -e ".[peers]"`. Every peer trains
the network of the golden trajectories for six steps from the same weights. It
agrees with ours after each step, or a test states where it departs from its
paper and shows that nothing else is between the two.
"""

import importlib

import numpy as np
import pytest

from keras_lwsam import methods
from tests.support import assert_close, distance, train_on_batch, weights_of
from tests.test_golden import load, model_of

pytestmark = pytest.mark.peers

STEPS = 6
LEARNING_RATE = 0.1
MOMENTUM = 0.9
TOLERANCE = 1e-5
# A hundred tolerances: what counts as another trajectory.
DIFFERENCE = 1e-3
GOLDEN = load("plain_sgd")


def batches():
    """The six batches of every golden trajectory."""
    return list(zip(GOLDEN["x"], GOLDEN["y"], strict=True))


def initial_weights():
    return [GOLDEN[f"w0_{i}"] for i in range(6)]


def golden_trajectory(name):
    golden = load(name)
    return [[golden[f"w_{t}_{i}"] for i in range(6)] for t in range(STEPS)]


def installed(name):
    """A package, or a failure that says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.fail(f'{error}; install it with: pip install -e ".[peers]"')


def our_trajectory(method):
    """Our weights after each step."""
    model = model_of("plain_sgd", GOLDEN, method)
    trajectory = []
    for x, y in batches():
        model.train_on_batch(x, y)
        trajectory.append(weights_of(model.model))
    return trajectory


def assert_agree(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, TOLERANCE)


def assert_differ(actual, expected):
    assert distance(actual[-1], expected[-1]) > DIFFERENCE


# --- PyTorch ---------------------------------------------------------------


def torch_network():
    """The network in PyTorch, whose kernels are output x input."""
    torch = installed("torch")
    modules = []
    for kernel in initial_weights()[::2]:
        modules += [torch.nn.Linear(*kernel.shape), torch.nn.Tanh()]
    network = torch.nn.Sequential(*modules[:-1])
    with torch.no_grad():
        for ours, theirs in zip(
            initial_weights(), network.parameters(), strict=True
        ):
            theirs.copy_(torch.from_numpy(ours.T))
    return network


def torch_weights(network):
    """Its weights as Keras orders their axes, copied."""
    return [p.detach().numpy().T.copy() for p in network.parameters()]


def wrapping(name, **arguments):
    """What makes a peer that builds its base optimizer itself."""

    def build(network):
        peer = getattr(installed("pytorch_optimizer"), name)
        sgd = installed("torch").optim.SGD
        # WSAM alone wants the network too.
        before = [network] if name == "WSAM" else []
        return peer(
            *before,
            network.parameters(),
            sgd,
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            **arguments,
        )

    return build


def gsam(network, rho=0.1, alpha=0.4):
    """Its GSAM, with a radius that stays: both ends of its schedule are rho."""
    torch = installed("torch")
    peers = installed("pytorch_optimizer")
    sgd = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM
    )
    constant = torch.optim.lr_scheduler.ConstantLR(sgd, factor=1.0)
    radius = peers.ProportionScheduler(
        constant, max_lr=LEARNING_RATE, max_value=rho, min_value=rho
    )
    return peers.GSAM(network.parameters(), sgd, network, radius, alpha=alpha)


def torch_step(optimizer, network, x, y):
    """One step, called in the one way that serves every peer."""
    torch = installed("torch")
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()

    # GSAM calls it without gradients, and unpacks what it returns.
    @torch.enable_grad()
    def closure():
        optimizer.zero_grad()
        logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        return logits, loss.detach()

    # SAM, LookSAM and FriendlySAM want the clean gradient to be there; the
    # others compute it once more.
    closure()
    optimizer.step(closure)


def torch_trajectory(build):
    """A peer's weights after each step."""
    network = torch_network()
    optimizer = build(network)
    trajectory = []
    for x, y in batches():
        torch_step(optimizer, network, x, y)
        trajectory.append(torch_weights(network))
    return trajectory


AGREEING = {
    "sam": (wrapping("SAM", rho=0.05), methods.SAM(0.05)),
    "gsam": (gsam, methods.GSAM(0.1, alpha=0.4)),
    "wsam": (wrapping("WSAM", rho=0.05), methods.WSAM(0.05)),
    "wsam_coupled": (
        wrapping("WSAM", rho=0.05, decouple=False),
        methods.WSAM(0.05, decouple=False),
    ),
    "friendly_sam": (
        wrapping("FriendlySAM", rho=0.05, sigma=1.0, lmbda=0.9),
        methods.FriendlySAM(0.05, sigma=1.0, decay=0.9),
    ),
    # Every step looks, and nothing that was kept is used.
    "look_sam_every_step": (
        wrapping("LookSAM", rho=0.1, k=1),
        methods.LookSAM(0.1, k=1),
    ),
}


@pytest.mark.parametrize("name", AGREEING)
def test_pytorch_optimizer_agrees(name):
    build, method = AGREEING[name]
    theirs = torch_trajectory(build)
    assert_agree(our_trajectory(method), theirs)
    # Agreement of two that perturb nothing would say nothing.
    assert_differ(theirs, golden_trajectory("plain_sgd"))


# --- What departs: by hand -------------------------------------------------


def forward(weights, x):
    """What each layer is given, and the logits at last."""
    outputs = [x]
    for i in range(0, len(weights), 2):
        last = i == len(weights) - 2
        sums = outputs[-1] @ weights[i] + weights[i + 1]
        outputs.append(sums if last else np.tanh(sums))
    return outputs


def log_probabilities(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def loss_at(weights, x, y):
    """The mean cross-entropy."""
    logits = forward(weights, x)[-1]
    return -np.mean(log_probabilities(logits)[np.arange(len(y)), y])


def gradients_at(weights, x, y):
    """Its gradients, by hand."""
    *outputs, logits = forward(weights, x)
    one_hot = np.eye(logits.shape[1])[y]
    error = (np.exp(log_probabilities(logits)) - one_hot) / len(y)
    gradients = []
    kernels = weights[::2]
    for kernel, output in zip(kernels[::-1], outputs[::-1], strict=True):
        gradients = [output.T @ error, error.sum(axis=0), *gradients]
        # The derivative of the tanh that made this output.
        error = (error @ kernel.T) * (1.0 - output**2)
    return gradients


def inner(vectors, others):
    return sum(np.sum(a * b) for a, b in zip(vectors, others, strict=True))


def norm(vectors):
    return np.sqrt(inner(vectors, vectors))


def climbed(weights, gradients, rho):
    """The weights that SAM computes its second gradient at."""
    scale = rho / norm(gradients)
    return [w + scale * g for w, g in zip(weights, gradients, strict=True)]


def per_list(function, size, *lists):
    """Applies a function of lists to pieces of `size` tensors each."""
    results = []
    for start in range(0, len(lists[0]), size):
        results += function(*(values[start:][:size] for values in lists))
    return results


def beside(sharp, clean):
    """The part of the sharp gradient perpendicular to the clean one."""
    along = inner(clean, sharp) / inner(clean, clean)
    return [s - along * g for s, g in zip(sharp, clean, strict=True)]


def with_kept(alpha):
    """LookSAM's step between two looks."""

    def step(gradients, kept):
        factor = alpha * norm(gradients) / norm(kept)
        return [g + factor * v for g, v in zip(gradients, kept, strict=True)]

    return step


def look_sam_by_hand(size, rho=0.1, k=2, alpha=0.7):
    """LookSAM's trajectory, with norms over `size` tensors at a time."""
    weights = [w.astype("float64") for w in initial_weights()]
    momenta = [np.zeros_like(w) for w in weights]
    trajectory = []
    for t, (x, y) in enumerate(batches()):
        gradients = gradients_at(weights, x, y)
        if t % k == 0:
            sharp = gradients_at(climbed(weights, gradients, rho), x, y)
            kept = per_list(beside, size, sharp, gradients)
            gradients = sharp
        else:
            gradients = per_list(with_kept(alpha), size, gradients, kept)
        momenta = [
            MOMENTUM * m + g for m, g in zip(momenta, gradients, strict=True)
        ]
        weights = [
            w - LEARNING_RATE * m for w, m in zip(weights, momenta, strict=True)
        ]
        trajectory.append(weights)
    return trajectory


def test_pytorch_optimizer_look_sam_takes_norms_of_single_tensors():
    """The paper projects and scales the gradient of all weights at once.

    `pytorch_optimizer` does so to each tensor on its own, a kernel apart from
    its bias, so by layer neither. Its perturbation is as long as the paper's.
    """
    theirs = torch_trajectory(wrapping("LookSAM", rho=0.1, k=2, alpha=0.7))
    assert_agree(theirs, look_sam_by_hand(size=1))
    assert_differ(theirs, look_sam_by_hand(size=2))
    ours = our_trajectory(methods.LookSAM(0.1, k=2, alpha=0.7))
    assert_agree(ours, look_sam_by_hand(size=6))
    assert_agree(ours, golden_trajectory("look_sam"))
    # The first look has not been used yet after step 0.
    assert_close(theirs[0], ours[0], TOLERANCE)
    assert distance(theirs[1], ours[1]) > DIFFERENCE
    assert_differ(theirs, ours)


# --- tf_keras --------------------------------------------------------------


def tf_keras_model(rho):
    """The class that Keras 2 had, around the network in Keras 2."""
    tf_keras = installed("tf_keras")
    kernels = initial_weights()[::2]
    network = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(kernel.shape[1], activation=activation)
            for kernel, activation in zip(
                kernels, ["tanh", "tanh", None], strict=True
            )
        ]
    )
    network.build((None, len(kernels[0])))
    network.set_weights(initial_weights())
    model = tf_keras.models.experimental.SharpnessAwareMinimization(
        network, rho=rho
    )
    model.compile(
        tf_keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def test_tf_keras_agrees():
    """Its first pass runs in inference mode, which is the same here."""
    model = tf_keras_model(rho=0.05)
    theirs = []
    for x, y in batches():
        model.train_on_batch(x, y)
        theirs.append(weights_of(model.model))
    assert_agree(our_trajectory(methods.SAM(0.05)), theirs)
    assert_differ(theirs, golden_trajectory("plain_sgd"))


def test_tf_keras_reports_the_mean_of_both_losses():
    """Ours reports the clean loss, which plain `fit` would report."""
    peer = tf_keras_model(rho=0.25)
    model = model_of("plain_sgd", GOLDEN, methods.SAM(0.25))
    for x, y in batches():
        weights = weights_of(model.model)
        clean = loss_at(weights, x, y)
        sharp = loss_at(
            climbed(weights, gradients_at(weights, x, y), 0.25), x, y
        )
        assert sharp - clean > DIFFERENCE
        ours = train_on_batch(model, x, y)["loss"]
        theirs = peer.train_on_batch(x, y)
        np.testing.assert_allclose(ours, clean, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(
            theirs, (clean + sharp) / 2.0, rtol=0, atol=TOLERANCE
        )
