"""The examples that fine-tune KerasHub's tasks, at a small size."""

import itertools
import json
import pathlib

import banking77_bert
import bert_task
import flowers102_vit
import keras
import numpy as np
import pytest
import sst2_bert
import tensorflow_datasets

from tests.examples_offline import write_digits
from tests.support import assert_equal

EXAMPLES = [banking77_bert, flowers102_vit, sst2_bert]
THINGS = ("card", "account", "transfer", "payment", "statement")
QUESTIONS = {
    "missing": ("Where is my {}?", "My {} has not arrived.", "I lost my {}!"),
    "how_to": ("How do I use a {}?", "Can you explain the {} to me?"),
    "fee": ("What does a {} cost?", "Why was I charged for the {}, again?"),
}


def rows(things=THINGS):
    """Lines of a CSV file, sorted by category as Banking77 is."""
    return [
        f'"{text.format(thing)}",{category}'
        for category, texts in QUESTIONS.items()
        for text, thing in itertools.product(texts, things)
    ]


def write(path, lines, header="text,category"):
    """Writes a CSV file; returns its path as text."""
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def run(example, folder, *arguments):
    """Runs an example in that folder; returns what is in results.json."""
    output = pathlib.Path(folder)
    arguments = ["--layers", "head", "--output", str(output), *arguments]
    example.main(arguments)
    return json.loads((output / "results.json").read_text())


def trained_in(folder):
    """The network that a run has trained; a task compiles itself."""
    path = folder / "network.keras"
    return keras.saving.load_model(path, compile=False)


def backbones(*classifiers):
    """The weights of their backbones."""
    return [classifier.backbone.get_weights() for classifier in classifiers]


def heads(*classifiers):
    """The kernels of their last layers."""
    return [c.output_dense.get_weights()[0] for c in classifiers]


@pytest.fixture
def eagerly(monkeypatch):
    """No time to compile steps of which there are few."""
    for module in (bert_task, flowers102_vit):
        monkeypatch.setattr(
            module,
            "settings",
            lambda *given, settings=module.settings: {
                **settings(*given),
                "run_eagerly": True,
            },
        )


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A small BERT that `banking77_bert.py` has trained: its arguments."""
    folder = tmp_path_factory.mktemp("banking77")
    train = write(folder / "train.csv", rows())
    test = write(folder / "test.csv", rows(["loan"]))
    return (
        folder / "run",
        *("--offline", "--train", train, "--test", test),
        *("--batch-size", "8", "--sequence-length", "12"),
    )


@pytest.fixture(scope="module")
def first_run(questions):
    return run(banking77_bert, *questions, "--epochs", "2")


@pytest.mark.documentation
def test_banking77(first_run):
    sizes = {"train": 35, "test": 7, "classes": 3}
    assert first_run["data"] == {"name": "train.csv", **sizes}
    assert first_run["method"] == "SAM(rho=0.05)"
    losses = first_run["history"]["loss"]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert first_run["selected_layers"] == ["logits"]


@pytest.mark.documentation
@pytest.mark.usefixtures("eagerly")
def test_a_run_is_resumed_and_its_result_reads_strings(first_run, questions):
    resumed = run(banking77_bert, *questions, "--epochs", "3")
    assert resumed["epochs_of_this_call"] == 1
    assert resumed["history"]["loss"][:2] == first_run["history"]["loss"]
    classifier = trained_in(questions[0])
    x = np.array(["Where is my card?", "What does a card cost?"])
    assert classifier.predict(x, verbose=0).shape == (2, 3)


@pytest.mark.documentation
@pytest.mark.usefixtures("eagerly")
def test_sst2_from_a_preset(first_run, questions, tmp_path):
    """As a pretrained classifier is loaded, from a directory."""
    classifier = trained_in(questions[0])
    classifier.save_to_preset(tmp_path / "preset")
    results = run(
        sst2_bert,
        tmp_path / "run",
        *("--offline", write(tmp_path / "all.csv", rows()), "--no-small"),
        *("--preset", str(tmp_path / "preset"), "--batch-size", "14"),
        *("--epochs", "1", "--sequence-length", "10", "--learning-rate", "0"),
    )
    assert results["data"]["train"] == 28
    assert results["data"]["test"] == 7
    trained = trained_in(tmp_path / "run")
    assert_equal(*backbones(classifier, trained))
    assert not np.array_equal(*heads(classifier, trained))
    assert trained.preprocessor.sequence_length == 10
    tokens = classifier.preprocessor.tokenizer.get_vocabulary()
    assert trained.preprocessor.tokenizer.get_vocabulary() == tokens


@pytest.mark.exhaustive
@pytest.mark.usefixtures("eagerly")
def test_sst2_of_tensorflow_datasets(tmp_path):
    with tensorflow_datasets.testing.mock_data(num_examples=9):
        results = run(
            sst2_bert,
            tmp_path,
            *("--small", "--batch-size", "4", "--epochs", "1"),
            *("--data-dir", str(tmp_path), "--sequence-length", "8"),
        )
    sizes = {"train": 9, "test": 9, "classes": 2}
    assert results["data"] == {"name": "glue/sst2", **sizes}
    assert results["method"] == "SAM(rho=0.15)"
    assert np.isfinite(results["test"]["loss"])


@pytest.mark.documentation
@pytest.mark.usefixtures("eagerly")
def test_flowers_of_tensorflow_datasets(tmp_path):
    with tensorflow_datasets.testing.mock_data(num_examples=2):
        results = run(
            flowers102_vit,
            tmp_path,
            *("--small", "--batch-size", "25", "--epochs", "1"),
            *("--data-dir", str(tmp_path)),
        )
    sizes = {"train": 50, "test": 2, "classes": 102}
    assert results["data"] == {"name": "oxford_flowers102", **sizes}
    assert np.isfinite(results["test"]["loss"])


@pytest.mark.documentation
@pytest.mark.usefixtures("eagerly")
def test_flowers_offline_and_from_a_preset(tmp_path):
    arguments = ("--offline", write_digits(tmp_path / "digits.npz"))
    arguments += ("--batch-size", "24", "--epochs")
    results = run(flowers102_vit, tmp_path / "small", *arguments, "2")
    sizes = {"train": 48, "test": 32, "classes": 10}
    assert results["data"] == {"name": "digits.npz", **sizes}
    assert len(results["history"]["loss"]) == 2
    classifier = trained_in(tmp_path / "small")
    classifier.save_to_preset(tmp_path / "preset")
    run(
        flowers102_vit,
        tmp_path / "pretrained",
        *(*arguments, "1", "--learning-rate", "0"),
        *("--no-small", "--preset", str(tmp_path / "preset")),
    )
    trained = trained_in(tmp_path / "pretrained")
    assert_equal(*backbones(classifier, trained))
    assert not np.array_equal(*heads(classifier, trained))


@pytest.mark.parametrize("example", EXAMPLES)
def test_help_explains_every_flag(example, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--preset", "--offline", "--rho", "--strategy", "--resume"):
        assert f"\n  {flag}" in text
    assert "arXiv:" in text


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (rows(), "sentence,label", "must have the columns text, category"),
        ([], "", "must have the columns text, category"),
        ([*rows(), '"Why?",'], "text,category", "row 36 is empty"),
        (['"a b",x'] * 9, "text,category", "2 categories, not 1"),
        (rows()[:4], "text,category", "2 categories, not 1"),
        (['"a",x', '"b",y'], "text,category", "examples to test on"),
    ],
)
def test_wrong_files(lines, header, message, tmp_path):
    path = write(tmp_path / "wrong.csv", lines, header)
    with pytest.raises(SystemExit, match=message):
        bert_task.examples(path)


def test_what_is_tested_on_must_be_of_the_same_categories(tmp_path):
    train = write(tmp_path / "train.csv", rows())
    test = write(tmp_path / "test.csv", ['"Hello",greeting'])
    with pytest.raises(SystemExit, match="greeting"):
        bert_task.examples(train, test)


def test_no_text(tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_bytes(b"text,category\n\xff,x\n")
    with pytest.raises(SystemExit, match="cannot be read"):
        bert_task.examples(str(path))


@pytest.mark.parametrize(
    ("example", "arguments", "flag"),
    [(banking77_bert, [], "--train"), (sst2_bert, ["--offline"], "--offline")],
)
def test_no_file(example, arguments, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    assert f"{flag}: " in capsys.readouterr().err


def test_each_fifth_row_is_tested_on_and_a_limit_is_a_fair_sample(tmp_path):
    examples = bert_task.examples(write(tmp_path / "all.csv", rows()))
    texts = [text.decode() for text, _ in examples.test.as_numpy_iterator()]
    assert texts == [row.split('"')[1] for row in rows()[4::5]]
    labels = [label for _, label in examples.train.as_numpy_iterator()]
    assert set(labels[:8]) == {0, 1, 2}


def test_the_vocabulary_has_characters_and_repeated_words():
    texts = ["is it a test?", "a test it is_not", "\u00e9t\u00e9 test"]
    characters = sorted({*"isatenot?_\u00e9"})
    assert bert_task.vocabulary(texts) == [
        *bert_task.SPECIAL_TOKENS,
        *characters,
        *(f"##{c}" for c in characters),
        *("test", "is", "it"),
    ]


def test_the_rate_rises_and_falls():
    rate = bert_task.WarmupThenLinear(2.0, 100)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(rate)
    )
    for step, expected in (
        (0, 0),
        (5, 1),
        (10, 2),
        (55, 1),
        (100, 0),
        (101, 0),
    ):
        assert float(rate(step)) == pytest.approx(expected)
        assert float(again(step)) == float(rate(step))


def test_biases_and_normalization_do_not_decay():
    args = banking77_bert.parse(
        ["--train", "x", "--learning-rate", "1", "--weight-decay", "0.5"]
    )
    steps = type("Data", (), {"steps": 1})
    optimizer = bert_task.settings(args, steps)["optimizer"]
    network = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, bias_initializer="ones"),
            keras.layers.LayerNormalization(beta_initializer="ones"),
        ]
    )
    weights = network.trainable_variables
    before = [keras.ops.convert_to_numpy(w).copy() for w in weights]
    for _ in range(2):
        optimizer.apply([keras.ops.zeros(w.shape) for w in weights], weights)
    after = [keras.ops.convert_to_numpy(w) for w in weights]
    assert np.abs(after[0]).sum() < np.abs(before[0]).sum()
    for a, b in zip(after[1:], before[1:], strict=True):
        np.testing.assert_array_equal(a, b)
