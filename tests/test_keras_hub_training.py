"""Language models, LoRA, frozen backbones, files and callbacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, analysis, callbacks, costs
from tests.backends import to_numpy
from tests.hub_tasks import (
    bert_classifier,
    bert_masked_lm,
    gpt2,
    small_image_classifier,
)
from tests.support import (
    assert_close,
    assert_equal,
    momentum_sgd,
    replicas,
    train_on_batch,
    weights_of,
)

pytestmark = [
    # KerasHub makes a data set of arrays, and leaves `shuffle` as it is.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
    # Of a part of the backbone that the task has no use for.
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]


def wrapped(task, method="sam", optimizer=None, **kwargs):
    """A compiled wrapper that perturbs all layers."""
    model = LWSAMModel(task, method, layers="all", **kwargs)
    model.compile(optimizer or momentum_sgd(), run_eagerly=True)
    return model


@pytest.mark.parametrize("make", [gpt2, bert_masked_lm])
def test_the_loss_of_weighted_tokens(make):
    """Keras's mean over all positions, of which padding has weight 0."""
    task, x, _ = make(dropout=0.0)
    inputs, y, weights = task.preprocessor(x)
    logits = np.asarray(to_numpy(task(inputs)), "float64")
    own = np.take_along_axis(logits, np.asarray(y)[..., None], axis=-1)
    losses = np.log(np.exp(logits).sum(-1)) - own[..., 0]
    weights = np.asarray(weights, "float64")
    assert 0.0 < weights.mean() < 1.0
    task.preprocessor = None
    logs = wrapped(task).train_on_batch(inputs, y, weights, return_dict=True)
    assert logs["loss"] == pytest.approx((losses * weights).mean(), rel=1e-5)
    hits = (logits.argmax(-1) == np.asarray(y)) * weights
    accuracy = hits.sum() / weights.sum()
    assert logs["sparse_categorical_accuracy"] == pytest.approx(accuracy)


def test_padding_trains_nothing():
    """Other labels behind the end of a text change no bit."""
    ends = []
    for label in (0, 3):
        task, x, _ = gpt2()
        inputs, y, weights = task.preprocessor(x)
        y = np.where(weights, y, label)
        task.preprocessor = None
        wrapped(task).train_on_batch(inputs, y, weights)
        ends.append(weights_of(task))
    assert_equal(*ends)


def test_generating_after_training(tmp_path):
    """With the sampler that the wrapper's `compile` hands to the task."""
    task, x, _ = gpt2()
    model = LWSAMModel(task)
    model.compile(momentum_sgd(), sampler="greedy", run_eagerly=True)
    model.train_on_batch(x)
    text = model.model.generate("a b", max_length=6)
    assert text.startswith("a b")
    twin, *_ = gpt2()
    twin.set_weights(task.get_weights())
    twin.compile(sampler="greedy", run_eagerly=True)
    assert twin.generate("a b", max_length=6) == text
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.model.generate("a b", max_length=6) == text


def train_and_compare(model, x, y=None):
    """The paths of the weights that some steps change."""
    weights = model.model.weights
    before = weights_of(model.model)
    for _ in range(3):
        logs = train_on_batch(model, x, y)
    assert logs["sharpness"] > 0.0
    pairs = zip(weights, before, strict=True)
    return {v.path for v, old in pairs if (v.numpy() != old).any()}


QUANTIZED = pytest.param(True, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("quantize", [False, QUANTIZED])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
def test_lora(quantize):
    """Only what LoRA leaves trainable is perturbed and trained."""
    task, x, _ = gpt2()
    task.backbone.enable_lora(2)
    if quantize:
        task.backbone.quantize("int8")
    trainable = {v.path for v in task.trainable_variables}
    model = wrapped(task, optimizer=keras.optimizers.Adam(0.01))
    kinds = [path.split("/")[-1] for path in model.layer_paths]
    assert kinds == ["query", "value"]
    assert train_and_compare(model, x) == trainable
    for layer in ("query", "value"):
        for name in ("lora_kernel_a", "lora_kernel_b"):
            assert any(p.endswith(f"{layer}/{name}") for p in trainable)


def test_lora_of_a_classifier_trains_its_head_too():
    task, x, y = bert_classifier()
    task.backbone.enable_lora(2)
    trainable = {v.path for v in task.trainable_variables}
    model = wrapped(task, optimizer=keras.optimizers.Adam(0.01))
    kinds = [path.split("/")[-1] for path in model.layer_paths]
    assert kinds == ["query", "value", "logits"]
    assert train_and_compare(model, x, y) == trainable


def test_lora_comes_before_the_wrapper():
    task, x, _ = gpt2()
    model = wrapped(task)
    task.backbone.enable_lora(2)
    with pytest.raises(ValueError, match=r"gained weights.*lora_kernel_a"):
        model.train_on_batch(x)


@pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called")
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_lora_is_saved_merged(tmp_path):
    """By Keras: the task is loaded, but nothing that would train it on."""
    task, x, y = small_image_classifier()
    task.output_dense.enable_lora(2)
    model = wrapped(task, optimizer=keras.optimizers.Adam(0.01))
    train_and_compare(model, x, y)
    task.save(tmp_path / "task.keras")
    loaded = keras.saving.load_model(tmp_path / "task.keras")
    predictions = [m.predict_on_batch(x) for m in (loaded, task)]
    np.testing.assert_allclose(*predictions, rtol=1e-5)
    model.save(tmp_path / "wrapper.keras")
    with pytest.raises(ValueError, match="another network"):
        keras.saving.load_model(tmp_path / "wrapper.keras")


def test_a_frozen_backbone():
    """Only the head is perturbed and trained, at the price of a plain step."""
    task, x, y = bert_classifier()
    task.backbone.trainable = False
    model = wrapped(task)
    assert model.layer_paths == model.selected_layers == ["logits"]
    trained = train_and_compare(model, x, y)
    assert trained == {"logits/kernel", "logits/bias"}
    assert costs.layer_costs(task, length=8).predict(["logits"]) < 1.1


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_16_bits(policy):
    task, x, y = bert_classifier(dtype=policy)
    model = wrapped(task)
    assert model.dtype_policy.name == policy
    logs = train_on_batch(model, x, y)
    assert 0.0 < logs["sharpness"] < 0.1
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")


@pytest.mark.not_torch
def test_saved_with_its_preprocessor(tmp_path):
    """Loaded, it predicts from raw strings, and trains on as if never saved."""
    task, x, y = bert_classifier()
    model = LWSAMModel(task)
    model.compile(momentum_sgd(), metrics=["accuracy"], run_eagerly=True)
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.model) is type(task)
    models = model, loaded
    for _ in range(2):
        assert_equal(*([m.predict_on_batch(x)] for m in models))
        logs = [train_on_batch(m, x, y) for m in models]
        assert logs[0] == logs[1]
    assert "accuracy" in logs[0]
    assert_equal(*(weights_of(m) for m in models))


def test_the_task_itself_is_saved_and_wrapped_again(tmp_path):
    task, x, y = bert_classifier()
    model = wrapped(task)
    model.train_on_batch(x, y)
    model.model.save_to_preset(str(tmp_path))
    loaded = type(task).from_preset(str(tmp_path))
    assert_equal(weights_of(loaded), weights_of(task))
    models = LWSAMModel(loaded), model
    assert_close(*([m.predict_on_batch(x)] for m in models), 1e-7)


def test_watching():
    """Callbacks and analysis take raw data too."""
    task, x, y = small_image_classifier()
    model = wrapped(task)
    sharpness = callbacks.SharpnessTracker(
        x, y, num_noise_samples=0, num_trace_samples=0, num_eigenvalues=0
    )
    norms = callbacks.LayerNormTracker()
    model.fit(x, y, callbacks=[sharpness, norms], verbose=0)
    assert {row["layer"] for row in norms.history} == set(model.layer_paths)
    expected = sharpness.history[0]["sharpness"]
    assert expected > 0.0
    task.compile(run_eagerly=True)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    for value in (
        analysis.sharpness(model, x, y),
        analysis.sharpness(model, batches),
        analysis.sharpness(task, x, y),
    ):
        assert value == pytest.approx(expected, rel=1e-3)
    task.preprocessor = None
    value = analysis.sharpness(model, x, y)
    assert value != pytest.approx(expected, rel=1e-3)


def test_strings_to_analyse():
    task, x, y = bert_classifier()
    model = LWSAMModel(task)
    model.compile(momentum_sgd(), run_eagerly=True)
    logs = [m.test_on_batch(x, y, return_dict=True) for m in (task, model)]
    objective = analysis.Objective(model, x, y)
    assert float(objective.loss()) == pytest.approx(logs[1]["loss"])
    assert logs[0]["loss"] == logs[1]["loss"]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "make",
    [
        small_image_classifier,
        pytest.param(bert_classifier, marks=pytest.mark.exhaustive),
    ],
)
def test_two_replicas(make):
    """They preprocess, train, and predict as one device does."""
    ends = []
    for strategy in (tf.distribute.get_strategy(), replicas(2)):
        with strategy.scope():
            task, x, y = make()
            for layer in task._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False  # It takes each replica's mean.
                if isinstance(layer, keras.layers.Dropout):
                    layer.rate = 0.0
            model = wrapped(task, sync_perturbation=True)
        logs = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
        predictions = model.predict(x, batch_size=4, verbose=0)
        ends.append([*weights_of(task), predictions, *logs.values()])
    assert_close(*ends, 1e-5)


def test_the_batch_before():
    """SAMPa keeps what the preprocessor made of it."""
    task, x, y = small_image_classifier()
    model = wrapped(task, "sampa")
    before = weights_of(task)
    logs = model.fit(x, y, batch_size=2, epochs=2, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert (weights_of(task)[0] != before[0]).any()
