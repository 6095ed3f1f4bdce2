"""What the text examples share: CSV files, BERT classifiers, AdamW.

Strings go into `fit` as they are: the classifier has its tokenizer with it.
"""

import collections
import csv
import pathlib
import random
import re
import sys

import keras
import pipelines
import recipe
import tensorflow as tf

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COLUMNS = ("text", "category")


def read(path):
    """Texts and categories of a CSV file with these two columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        sys.exit(f"{path} cannot be read as CSV in UTF-8: {error}")
    if not set(COLUMNS) <= set(names):
        sys.exit(
            f"{path} must have the columns {', '.join(COLUMNS)}. "
            f"Its first line has: {', '.join(names) or 'nothing'}"
        )
    for number, row in enumerate(rows, start=1):
        if not all((row[name] or "").strip() for name in COLUMNS):
            sys.exit(f"{path}: text or category of row {number} is empty.")
    return [row["text"] for row in rows], [row["category"] for row in rows]


def examples(train, test=None):
    """`Examples` of CSV files; without `test`, each fifth row is tested on."""
    texts, categories = read(train)
    names = sorted(set(categories))
    if len(names) < 2:
        sys.exit(f"{train}: there must be 2 categories, not {len(names)}.")
    pairs = list(zip(texts, categories, strict=True))
    if test is None:
        tested = pairs[4::5]
        pairs = [pair for i, pair in enumerate(pairs) if i % 5 != 4]
    else:
        tested = list(zip(*read(test), strict=True))
    unknown = sorted({category for _, category in tested} - set(names))
    if unknown or not tested:
        sys.exit(
            f"{test or train}: there must be examples to test on, of "
            f"categories to train on. Others: {', '.join(unknown) or 'none'}"
        )
    # Files come sorted by category; `--limit` takes the first.
    random.Random(0).shuffle(pairs)
    number = {name: i for i, name in enumerate(names)}

    def dataset(some):
        texts, categories = zip(*some, strict=True)
        labels = [number[category] for category in categories]
        return tf.data.Dataset.from_tensor_slices((list(texts), labels))

    return pipelines.Examples(
        dataset(pairs),
        dataset(tested),
        train_size=len(pairs),
        test_size=len(tested),
        classes=len(names),
        name=pathlib.Path(train).name,
    )


def parser(description, name, reference, offline, preset):
    """The options of a text example.

    Args:
        description: Text for `--help`.
        name: Of the example.
        reference: Dict of the defaults, with `sequence_length`.
        offline: Dict of those that are others with `--offline`.
        preset: Default of `--preset`.
    """
    result = recipe.parser(description, name, reference, offline)
    result.add_argument(
        "--preset",
        default=preset,
        help="a BERT of KerasHub, such as bert_tiny_en_uncased, or the "
        "directory of one (%(default)s)",
    )
    result.add_argument(
        "--sequence-length",
        type=recipe.positive,
        help="tokens of a text; what is longer is cut "
        f"({reference['sequence_length']}; with --offline "
        f"{offline['sequence_length']})",
    )
    return result


def vocabulary(texts):
    """Pieces of BERT's tokenizer: characters, and words seen repeatedly."""
    counts = collections.Counter(
        word for text in texts for word in re.findall(r"[^\W_]+|\S", text)
    )
    characters = sorted({c for word in counts for c in word})
    repeated = {word: n for word, n in counts.items() if n > 1}
    words = sorted(repeated, key=lambda word: (-repeated[word], word))
    pieces = [*SPECIAL_TOKENS, *characters]
    pieces += [f"##{character}" for character in characters]
    return pieces + [word for word in words if len(word) > 1]


def small_classifier(args, data):
    """Of the size of bert_tiny, with the words of what it is trained on."""
    hub = pipelines.need("keras_hub", "hub")
    pieces = vocabulary(
        text.decode().lower()
        for batch, _ in data.train
        for text in batch.numpy()
    )
    preprocessor = hub.models.BertTextClassifierPreprocessor(
        hub.models.BertTokenizer(pieces, lowercase=True),
        args.sequence_length,
    )
    backbone = hub.models.BertBackbone(
        vocabulary_size=len(pieces),
        num_layers=2,
        num_heads=2,
        hidden_dim=128,
        intermediate_dim=512,
        max_sequence_length=args.sequence_length,
    )
    return hub.models.BertTextClassifier(backbone, data.classes, preprocessor)


def build(args, data):
    """The classifier: pretrained, or small and randomly initialised."""
    if args.small:
        return small_classifier(args, data)
    hub = pipelines.need("keras_hub", "hub")
    classifier = hub.models.TextClassifier.from_preset(
        args.preset, num_classes=data.classes
    )
    classifier.preprocessor.sequence_length = args.sequence_length
    return classifier


@keras.saving.register_keras_serializable(package="examples")
class WarmupThenLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Rises for a tenth of the steps, then falls to zero, along lines."""

    def __init__(self, peak, steps):
        super().__init__()
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        turn = max(1.0, self.steps / 10)
        rise = step / turn
        fall = (self.steps - step) / max(1.0, self.steps - turn)
        share = keras.ops.minimum(rise, fall)
        return self.peak * keras.ops.maximum(share, 0.0)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def settings(args, data):
    """How BERT's own code fine-tunes."""
    steps = args.epochs * data.steps
    optimizer = keras.optimizers.AdamW(
        WarmupThenLinear(args.learning_rate, steps),
        weight_decay=args.weight_decay,
        epsilon=1e-6,
        global_clipnorm=1.0,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return {
        "optimizer": optimizer,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }
