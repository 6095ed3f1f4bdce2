"""The presets of `layers`: the head, the last blocks, the normalization."""

import functools

import keras
import keras_hub
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, selection
from keras_lwsam._command_line import networks
from keras_lwsam._layers import all_layers
from tests import command_line
from tests.backends import to_numpy

IMAGE = (32, 32, 3)
SMALL_TEXT = {
    "vocabulary_size": 20,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 16,
    "max_sequence_length": 8,
}


@functools.lru_cache(maxsize=1)
def layers_of(network):
    return all_layers(network)


def selected(network, preset):
    """Paths of the layers that a preset selects, without the outer names."""
    found = selection.get(preset).resolve(layers_of(network))
    outer = getattr(network, "backbone", network).name
    paths = [layer.path for layer in layers_of(network)]
    return [paths[i].removeprefix(f"{outer}/") for i in found]


def bert():
    return keras_hub.models.BertTextClassifier(
        keras_hub.models.BertBackbone(**SMALL_TEXT), num_classes=2
    )


def roberta():
    return keras_hub.models.RobertaTextClassifier(
        keras_hub.models.RobertaBackbone(**SMALL_TEXT),
        num_classes=2,
        hidden_dim=8,
    )


def gpt2():
    return keras_hub.models.GPT2CausalLM(
        keras_hub.models.GPT2Backbone(**SMALL_TEXT)
    )


def bart():
    return keras_hub.models.BartSeq2SeqLM(
        keras_hub.models.BartBackbone(**SMALL_TEXT)
    )


def gemma():
    return keras_hub.models.GemmaCausalLM(
        keras_hub.models.GemmaBackbone(
            vocabulary_size=20,
            num_layers=3,
            num_query_heads=2,
            num_key_value_heads=1,
            hidden_dim=8,
            intermediate_dim=16,
            head_dim=4,
        )
    )


def vit():
    return keras_hub.models.ViTImageClassifier(
        keras_hub.models.ViTBackbone(
            image_shape=IMAGE,
            patch_size=16,
            num_layers=3,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=16,
        ),
        num_classes=3,
    )


def densenet():
    return keras_hub.models.DenseNetImageClassifier(
        keras_hub.models.DenseNetBackbone(
            stackwise_num_repeats=[2, 3], image_shape=IMAGE
        ),
        num_classes=3,
    )


# Task, its head, the first layer of its last two blocks, the number of its
# normalization layers.
TASKS = [
    (
        bert,
        ["logits"],
        "transformer_layer_1/self_attention_layer/query",
        7,
    ),
    (
        roberta,
        ["pooled_dense", "logits"],
        "transformer_layer_1/self_attention_layer/query",
        7,
    ),
    (gpt2, None, "transformer_layer_1/self_attention_layer_norm", 7),
    (bart, None, "transformer_decoder_layer_1/self_attention/query", 17),
    (gemma, None, "decoder_block_1/pre_attention_norm", 7),
    (vit, ["predictions"], "vit_encoder/transformer_block_2/ln_1", 7),
    (densenet, ["predictions"], "stack2_block2_1_bn", 13),
]


@pytest.mark.parametrize(
    ("make", "head", "last_blocks", "num_normalizations"),
    TASKS,
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tasks(make, head, last_blocks, num_normalizations):
    network = make()
    if head is None:
        with pytest.raises(ValueError, match="embeddings make its output"):
            selected(network, "head")
    else:
        assert selected(network, "head") == head
    paths = selected(network, "all")
    # All that lies behind the first layer of the last but one block.
    start = paths.index(last_blocks)
    assert selected(network, "last_blocks:2") == paths[start:]
    assert len(selected(network, "normalization")) == num_normalizations


# Constructor, the first layer of its last two blocks (`None`: no blocks known),
# its head, the number of its normalization layers (the rest is in a record).
APPLICATIONS = [
    ("MobileNet", "conv_dw_12", "conv_preds", 27),
    ("MobileNetV2", "block_15_expand", "predictions", 52),
    ("MobileNetV3Small", "expanded_conv_9_expand", "logits", 34),
    ("ResNet50", "conv5_block2_1_conv", "predictions", 53),
    ("EfficientNetB0", "block6d_expand_conv", "predictions", 49),
    (
        "ConvNeXtTiny",
        "convnext_tiny_stage_3_block_1_depthwise_conv",
        "convnext_tiny_head_dense",
        23,
    ),
    ("InceptionV3", None, "predictions", 94),
]


@pytest.mark.parametrize(
    ("name", "last_blocks", "head", "num_normalizations"),
    APPLICATIONS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_applications(name, last_blocks, head, num_normalizations):
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(75, 75, 3), classes=3
    )
    assert selected(network, "head") == [head]
    assert len(selected(network, "normalization")) == num_normalizations
    if last_blocks is None:
        with pytest.raises(ValueError, match=r"The blocks: \[\]"):
            selected(network, "last_blocks:1")
    else:
        chosen = selected(network, "last_blocks:2")
        assert (chosen[0], chosen[-1]) == (last_blocks, head)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MobileNetV2", {"alpha": 0.35}),
        pytest.param(
            "MobileNet", {"alpha": 0.25}, marks=pytest.mark.exhaustive
        ),
        pytest.param(
            "MobileNetV3Small",
            {"minimalistic": True},
            marks=pytest.mark.exhaustive,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_small_applications_train_and_save(name, size, tmp_path):
    """The others do in a record: 2026-11-21_applications."""
    network = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=3, **size
    )
    model = LWSAMModel(network, layers="last_blocks:1")
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    before = network.get_weights()
    assert np.isfinite(model.train_on_batch(x, np.array([0, 1]))[0])
    assert any(
        (a != b).any()
        for a, b in zip(before, network.get_weights(), strict=True)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.selected_layers == model.selected_layers
    np.testing.assert_array_equal(
        to_numpy(loaded(x, training=False)),
        to_numpy(model(x, training=False)),
    )


class Block(layers.Layer):
    """A residual block of one's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, inputs):
        return inputs + self.dense(self.norm(inputs))


def blocks_of_ones_own(*rest):
    return keras.Sequential(
        [
            keras.Input((4,)),
            *(Block(name=f"part{i}") for i in range(3)),
            *rest,
        ]
    )


def test_blocks_of_ones_own_class():
    network = blocks_of_ones_own(layers.Dense(2, name="top"))
    chosen = selected(network, "last_blocks:1")
    assert [path.split("/")[0] for path in chosen] == ["part2", "part2", "top"]
    assert len(selected(network, "last_blocks:3")) == 7
    assert selected(network, "head") == ["top"]
    with pytest.raises(ValueError, match="'part0', 'part1', 'part2'"):
        selected(network, "last_blocks:4")


def test_a_part_called_head_is_the_head():
    head = keras.Sequential(
        [layers.Dense(5, name="a"), layers.Dense(2, name="b")], name="head"
    )
    network = blocks_of_ones_own(head, layers.Dense(2, name="top"))
    assert selected(network, "head") == ["head/a", "head/b"]
    plain = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="head"),
            layers.Dense(2, name="last"),
        ]
    )
    assert selected(plain, "head") == ["head"]


def test_behind_a_pretrained_network():
    base = keras.applications.MobileNet(
        weights=None, include_top=False, input_shape=IMAGE, alpha=0.25
    )
    top = keras.Sequential(
        [layers.Dense(5, name="a"), layers.Dense(2, name="b")], name="top"
    )
    inputs = keras.Input(IMAGE)
    features = layers.GlobalAveragePooling2D()(base(inputs))
    network = keras.Model(inputs, top(features))
    assert selected(network, "head") == ["top/a", "top/b"]
    first = selected(network, "last_blocks:2")[0]
    assert first == f"{base.name}/conv_dw_12"
    # What is frozen is no part of what is selected, nor of what is counted.
    base.trainable = False
    model = LWSAMModel(network, layers="head")
    assert model.selected_layers == ["top/a", "top/b"] == model.layer_paths
    with pytest.raises(ValueError, match=r"The blocks: \[\]"):
        LWSAMModel(network, layers="last_blocks:1")


def test_normalization_layers_of_other_classes():
    class RootMeanSquareNorm(layers.LayerNormalization):
        pass

    class NormalizedDense(layers.Dense):
        pass

    network = keras.Sequential(
        [
            keras.Input((4,)),
            NormalizedDense(4, name="dense"),
            RootMeanSquareNorm(name="rms"),
            layers.BatchNormalization(name="batch"),
            layers.Dense(2, name="top"),
        ]
    )
    assert selected(network, "normalization") == ["rms", "batch"]
    with pytest.raises(ValueError, match="none is a normalization layer"):
        selected(
            keras.Sequential([keras.Input((4,)), layers.Dense(2)]),
            "normalization",
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("head", selection.Head()),
        ("last_blocks:3", selection.LastBlocks(3)),
        ("normalization", selection.Normalization()),
    ],
)
def test_names(text, expected):
    found = selection.get(text)
    assert found == expected
    config = keras.saving.serialize_keras_object(found)
    assert keras.saving.deserialize_keras_object(config) == expected


@pytest.mark.parametrize(
    "text", ["last_blocks", "last_blocks:", "last_blocks:0", "last_blocks:x"]
)
def test_malformed_number_of_blocks(text):
    with pytest.raises(ValueError, match=f"Received: layers='{text}'"):
        selection.get(text)


@pytest.mark.parametrize("wrong", [0, -1])
def test_number_of_blocks(wrong):
    with pytest.raises(ValueError, match=f"num_blocks={wrong}"):
        selection.LastBlocks(wrong)
    with pytest.raises(TypeError, match="num_blocks='2'"):
        selection.LastBlocks("2")


def test_on_the_command_line(tmp_path, capsys):
    """KerasHub's classes are known to it, as soon as a file names them."""
    bert().save(tmp_path / "bert.keras")
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    dense.save(tmp_path / "dense.keras")
    assert networks.packages_in(tmp_path / "bert.keras") == ["keras_hub"]
    assert networks.packages_in(tmp_path / "dense.keras") == []
    code, output, _ = command_line.run(
        capsys,
        "cost",
        tmp_path / "bert.keras",
        "--layers",
        "head",
        "--length",
        8,
    )
    assert code == 0
    assert "logits" in output
    assert "pooled_dense" not in output
