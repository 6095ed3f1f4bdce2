"""Small tasks of KerasHub with random weights, each with raw data.

Builders of `(task, x, y)`. All seed first: TensorFlow forgets SentencePiece
models when it is seeded, so a task is used before the next one is built.
"""

import functools
import io

import keras
import keras_hub
import numpy as np
import sentencepiece
import tensorflow as tf
from keras_hub import models

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumped",
    "over",
    "lazy",
    "dog",
    "a",
    "b",
    "c",
]
TEXTS = ["the quick fox", "a b c", "lazy dog", "c b a the dog jumped"]
LABELS = np.array([0, 1, 2, 0])
# For tokenizers of byte pairs: outside `fit` they take no NumPy strings.
TENSOR = tf.constant(["a b c", "b c", "a", "c b a"])

LENGTH = 8
SIZES = {
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 8,
}
DECODER_SIZES = {
    "num_layers": 1,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 8,
}

SIDE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), "uint8")
SHAPE = IMAGES.shape[1:]
MASKS = np.eye(3)[np.random.default_rng(1).integers(0, 3, (4, SIDE, SIDE))]
BOXES = {
    "boxes": np.array([[[0, 0, 31, 31], [2, 2, 30, 28]]] * 4, "float32"),
    "labels": np.array([[0, 1]] * 4),
}


def seeded(make):
    """`make`, which starts from the same seed whenever it is called."""

    @functools.wraps(make)
    def build(*args, **kwargs):
        keras.utils.set_random_seed(0)
        return make(*args, **kwargs)

    return build


def word_pieces(tokenizer):
    """A WordPiece tokenizer of some kind that knows `WORDS`."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return tokenizer([*special, *WORDS], lowercase=True)


def byte_pairs(tokenizer):
    """A byte-pair tokenizer of some kind that knows a, b and c."""
    special = ["<s>", "</s>", "<pad>", "<mask>", "<|endoftext|>"]
    letters = ["a", "b", "c", "\u0120", "\u0120a", "\u0120b", "\u0120c"]
    vocabulary = {piece: i for i, piece in enumerate([*letters, *special])}
    return tokenizer(vocabulary, ["\u0120 a", "\u0120 b", "\u0120 c"])


def sentence_pieces(tokenizer, **options):
    """A SentencePiece tokenizer of some kind that knows `WORDS`."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 3),
        model_writer=file,
        vocab_size=40,
        model_type="WORD",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return tokenizer(file.getvalue())


def bert_backbone(tokenizer, dropout=0.1, dtype=None):
    return models.BertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=LENGTH,
        dropout=dropout,
        dtype=dtype,
        **SIZES,
    )


@seeded
def bert_classifier(dropout=0.1, dtype=None):
    tokenizer = word_pieces(models.BertTokenizer)
    task = models.BertTextClassifier(
        bert_backbone(tokenizer, dropout, dtype),
        3,
        models.BertTextClassifierPreprocessor(tokenizer, LENGTH),
        dropout=dropout,
    )
    return task, TEXTS, LABELS


@seeded
def albert_classifier():
    """Its layers share their weights."""
    tokenizer = sentence_pieces(
        models.AlbertTokenizer,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        user_defined_symbols="[CLS],[SEP],[MASK]",
    )
    backbone = models.AlbertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        embedding_dim=4,
        max_sequence_length=LENGTH,
        **SIZES | {"num_layers": 2},
    )
    task = models.AlbertTextClassifier(
        backbone, 3, models.AlbertTextClassifierPreprocessor(tokenizer, LENGTH)
    )
    return task, TEXTS, LABELS


@seeded
def roberta_classifier():
    tokenizer = byte_pairs(models.RobertaTokenizer)
    backbone = models.RobertaBackbone(
        tokenizer.vocabulary_size(), max_sequence_length=LENGTH, **SIZES
    )
    task = models.RobertaTextClassifier(
        backbone, 3, models.RobertaTextClassifierPreprocessor(tokenizer, LENGTH)
    )
    return task, TENSOR, LABELS


@seeded
def bert_masked_lm(dropout=0.1):
    tokenizer = word_pieces(models.BertTokenizer)
    preprocessor = models.BertMaskedLMPreprocessor(
        tokenizer, LENGTH, mask_selection_rate=0.5, mask_selection_length=4
    )
    backbone = bert_backbone(tokenizer, dropout)
    return models.BertMaskedLM(backbone, preprocessor), TEXTS, None


@seeded
def bert_embedder():
    """A task that is not compiled to begin with."""
    tokenizer = word_pieces(models.BertTokenizer)
    preprocessor = models.BertTextEmbedderPreprocessor(tokenizer, LENGTH)
    task = models.BertTextEmbedder(bert_backbone(tokenizer), preprocessor)
    return task, TEXTS, np.eye(4, 8, dtype="float32")


@seeded
def gpt2(dropout=0.1):
    tokenizer = byte_pairs(models.GPT2Tokenizer)
    backbone = models.GPT2Backbone(
        tokenizer.vocabulary_size(),
        dropout=dropout,
        max_sequence_length=LENGTH,
        **SIZES,
    )
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, LENGTH)
    return models.GPT2CausalLM(backbone, preprocessor), TENSOR, None


@seeded
def gemma():
    tokenizer = sentence_pieces(
        models.GemmaTokenizer,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        control_symbols="<start_of_turn>,<end_of_turn>",
    )
    backbone = models.GemmaBackbone(
        tokenizer.vocabulary_size(), head_dim=4, **DECODER_SIZES
    )
    preprocessor = models.GemmaCausalLMPreprocessor(tokenizer, LENGTH)
    return models.GemmaCausalLM(backbone, preprocessor), TEXTS, None


@seeded
def mistral():
    tokenizer = sentence_pieces(
        models.MistralTokenizer, unk_id=0, bos_id=1, eos_id=2
    )
    backbone = models.MistralBackbone(
        tokenizer.vocabulary_size(), **DECODER_SIZES
    )
    preprocessor = models.MistralCausalLMPreprocessor(tokenizer, LENGTH)
    return models.MistralCausalLM(backbone, preprocessor), TEXTS, None


@seeded
def bart():
    tokenizer = byte_pairs(models.BartTokenizer)
    backbone = models.BartBackbone(
        tokenizer.vocabulary_size(), max_sequence_length=LENGTH, **SIZES
    )
    preprocessor = models.BartSeq2SeqLMPreprocessor(tokenizer, LENGTH, LENGTH)
    x = {"encoder_text": TENSOR, "decoder_text": TENSOR}
    return models.BartSeq2SeqLM(backbone, preprocessor), x, None


def converter(name, **options):
    """The image converter of a family, to `SHAPE` and [0, 1]."""
    kind = getattr(keras_hub.layers, f"{name}ImageConverter")
    return kind(image_size=SHAPE[:2], scale=1 / 255, **options)


def image_classifier(family, backbone):
    """The classifier of a family, on images as they are."""
    preprocessor = getattr(models, f"{family}ImageClassifierPreprocessor")
    task = getattr(models, f"{family}ImageClassifier")(
        backbone, num_classes=3, preprocessor=preprocessor(converter(family))
    )
    return task, IMAGES, LABELS


@seeded
def small_image_classifier():
    """Any network may be the backbone, any layer the preprocessor."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, 4, name="convolution")(inputs)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    outputs = keras.layers.ReLU()(x)
    task = models.ImageClassifier(
        keras.Model(inputs, outputs, name="backbone"),
        num_classes=3,
        preprocessor=keras.layers.Rescaling(1 / 255),
        dropout=0.1,
    )
    return task, IMAGES, LABELS


def resnet_backbone(stages):
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, *[4] * (stages - 1)],
        stackwise_num_blocks=[1] * stages,
        stackwise_num_strides=[1, *[2] * (stages - 1)],
        block_type="basic_block",
        image_shape=SHAPE,
    )


@seeded
def resnet():
    return image_classifier("ResNet", resnet_backbone(2))


@seeded
def vit():
    backbone = models.ViTBackbone(
        image_shape=SHAPE,
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=8,
        dropout_rate=0.1,
    )
    return image_classifier("ViT", backbone)


@seeded
def efficientnet():
    backbone = models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 8],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["fused", "unfused"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        input_shape=SHAPE,
        num_features=16,
    )
    return image_classifier("EfficientNet", backbone)


@seeded
def deeplab():
    backbone = models.DeepLabV3Backbone(
        resnet_backbone(3),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[1, 2],
        projection_filters=4,
        image_shape=SHAPE,
    )
    task = models.DeepLabV3ImageSegmenter(
        backbone,
        num_classes=3,
        preprocessor=models.DeepLabV3ImageSegmenterPreprocessor(
            converter("DeepLabV3")
        ),
    )
    return task, IMAGES, MASKS


@seeded
def segformer():
    encoder = models.MiTBackbone(
        num_layers=4,
        layerwise_depths=[1] * 4,
        layerwise_num_heads=[1] * 4,
        layerwise_sr_ratios=[4, 2, 1, 1],
        layerwise_patch_sizes=[3] * 4,
        layerwise_strides=[2] * 4,
        hidden_dims=[4, 6, 8, 10],
        max_drop_path_rate=0.1,
        image_shape=SHAPE,
    )
    task = models.SegFormerImageSegmenter(
        models.SegFormerBackbone(encoder, projection_filters=8),
        num_classes=3,
        preprocessor=models.SegFormerImageSegmenterPreprocessor(
            converter("SegFormer")
        ),
    )
    return task, IMAGES, MASKS


@seeded
def retinanet():
    """Its losses are computed by a `compute_loss` of its own."""
    backbone = models.RetinaNetBackbone(
        resnet_backbone(4),
        min_level=3,
        max_level=5,
        use_p5=True,
        image_shape=SHAPE,
    )
    task = models.RetinaNetObjectDetector(
        backbone,
        num_classes=2,
        preprocessor=models.RetinaNetObjectDetectorPreprocessor(
            converter("RetinaNet", bounding_box_format="yxyx")
        ),
        pre_logits_num_conv_layers=1,
    )
    return task, IMAGES, BOXES


TASKS = [
    bert_classifier,
    bert_masked_lm,
    gpt2,
    gemma,
    bart,
    resnet,
    vit,
]
MORE_TASKS = [
    deeplab,
    retinanet,
    albert_classifier,
    roberta_classifier,
    bert_embedder,
    mistral,
    efficientnet,
    segformer,
]
