"""A file that is damaged or foreign is refused, and changes nothing at all.

Keras loads part by part and goes on where one is refused, so that an error may
come when half of the weights are those of the file.
"""

import shutil
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods
from tests.interrupted import (
    At,
    Run,
    X,
    assert_same,
    decaying_sgd,
    everything,
    fit,
    make,
    network,
    stop,
)
from tests.support import assert_equal, cross_entropy

SUFFIXES = (".keras", ".weights.h5")
# Its state has arrays of each kind: memory, seeds, the batch before.
OURS = Run(methods.SAMPa)


def trained(run=OURS, seed=0, epochs=1, **kwargs):
    keras.utils.set_random_seed(seed)
    model = make(run, **kwargs)
    fit(model, epochs)
    return model


FOREIGN = {
    "another method": lambda: trained(Run(methods.VaSSO), seed=1),
    "a method without memory": lambda: trained(Run(), seed=1),
    "another network": lambda: trained(seed=1, hidden=7),
    "a bare network": lambda: trained(seed=1).model,
}


@pytest.fixture(scope="module")
def model():
    """One for all tests here, since none may change it."""
    return trained()


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The folder of the files of a model like it."""
    folder = tmp_path_factory.mktemp("intact")
    save(trained(seed=1), folder / "file")
    return folder


def save(model, stem):
    model.save(stem.with_suffix(".keras"))
    model.save_weights(stem.with_suffix(".weights.h5"))


def assert_refused(model, path, match, error=Exception):
    """Loading raises, and all that the model knows stays bit for bit."""
    before = everything(model)
    with warnings.catch_warnings():
        # Keras warns of an optimizer that does not fit, and goes on.
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(error, match=match):
            model.load_weights(path)
    assert_same(everything(model), before)


def test_an_intact_file_changes_everything(model, intact):
    """What the others prove is not that nothing is ever loaded."""
    like, other = trained(), trained(seed=1)
    for suffix in SUFFIXES:
        like.load_weights(intact / f"file{suffix}")
        assert_same(everything(like), everything(other))
        assert (like.get_weights()[0] != model.get_weights()[0]).any()


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files(model, what, tmp_path):
    save(FOREIGN[what](), tmp_path / "file")
    match = "saved with another method, or is it the file of a bare network"
    if what == "another network":
        match = "that of another network"
    for suffix in SUFFIXES:
        assert_refused(model, tmp_path / f"file{suffix}", match, ValueError)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(model, intact, share, tmp_path):
    """What is left of a file when the disk was full, or the power failed."""
    for suffix in SUFFIXES:
        path = tmp_path / f"cut{suffix}"
        whole = (intact / f"file{suffix}").read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        match = "not a zip file|truncated file|signature not found"
        assert_refused(model, path, match, (OSError, zipfile.BadZipFile))
    with pytest.raises(ValueError, match=r"accessible `\.keras` zip file"):
        keras.saving.load_model(tmp_path / "cut.keras")


def test_what_is_no_model_at_all(model, tmp_path):
    for suffix in SUFFIXES:
        assert_refused(
            model, tmp_path / f"none{suffix}", "No such file", FileNotFoundError
        )
        (tmp_path / f"text{suffix}").write_text("This is no model.")
        assert_refused(
            model,
            tmp_path / f"text{suffix}",
            "not a zip file|signature not found",
            (OSError, zipfile.BadZipFile),
        )
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    assert_refused(
        model, tmp_path / "other.keras", "no item named 'model.weights.h5'"
    )


def damaged(source, path, name, array=None):
    """A copy of a file with an array left out, or another in its place."""
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        del file[name]
        if array is not None:
            file[name] = array
    return path


def arrays_in(path):
    """Paths of all arrays in a file."""
    names = []
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                names.append(name) if isinstance(item, h5py.Dataset) else None
            )
        )
    return names


def test_each_array_is_missed(model, intact, tmp_path):
    """Of the wrapper and the network: whichever is left out or misshapen."""
    source, path = intact / "file.weights.h5", tmp_path / "bad.weights.h5"
    names = [n for n in arrays_in(source) if not n.startswith("optimizer")]
    assert {"vars/clock", "vars/selection", "vars/seed_0"} < set(names)
    for name in names:
        # What the batch before looked like, only the next batch can tell.
        if name.startswith("vars/previous_"):
            continue
        for array in (None, np.zeros((3, 5, 7))):
            damaged(source, path, name, array)
            assert_refused(model, path, "could not be loaded", ValueError)


def test_another_optimizer_is_left_alone_with_a_warning(intact, tmp_path):
    """That is Keras's own rule: weights and state are loaded all the same."""
    model, other = trained(), trained(seed=1)
    name = "optimizer/vars/3"
    path = damaged(
        intact / "file.weights.h5", tmp_path / "bad.weights.h5", name
    )
    before = everything(model)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        model.load_weights(path)
    expected = everything(other) | {
        name: array
        for name, array in before.items()
        if name.startswith("optimizer")
    }
    assert_same(everything(model), expected)


def flipped(path, positions, target):
    """A copy of a file with some bytes inverted."""
    content = bytearray(path.read_bytes())
    for position in positions:
        content[position % len(content)] ^= 0xFF
    target.write_bytes(content)
    return target


def test_a_file_with_wrong_bits_is_refused_where_it_has_a_checksum(
    model, intact, tmp_path
):
    """A `.keras` file has one of each part, a `.weights.h5` file has none."""
    whole = intact / "file.keras"
    with zipfile.ZipFile(whole) as archive:
        begin = archive.getinfo("model.weights.h5").header_offset + 100
    size = whole.stat().st_size - begin - 1000
    for share in np.linspace(0, 1, 7):
        path = flipped(
            whole, [begin + int(share * size)], tmp_path / "bad.keras"
        )
        assert_refused(model, path, "Bad CRC-32", zipfile.BadZipFile)
        with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
            keras.saving.load_model(path)


def test_a_file_without_a_checksum_hides_wrong_numbers(intact, tmp_path):
    other, whole = trained(seed=1), intact / "file.weights.h5"
    kernel = other.model.weights[0].numpy()
    position = whole.read_bytes().index(kernel.tobytes())
    other.load_weights(flipped(whole, [position], tmp_path / "bad.weights.h5"))
    assert (other.model.weights[0].numpy() != kernel).sum() == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_raised_changes_nothing(model, intact, seed, tmp_path):
    """Many wrong bits in a file without a checksum, wherever they lie."""
    whole = intact / "file.weights.h5"
    positions = np.random.default_rng(seed).integers(0, 2**30, 100)
    path = flipped(whole, positions, tmp_path / "bad.weights.h5")
    assert_refused(model, path, "")


def test_a_damaged_backup(model, tmp_path):
    """`fit` raises before its first step; nothing is trained or changed."""
    weights = tmp_path / "latest.weights.h5"
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    trained(Run(methods.VaSSO)).save_weights(weights)
    before = everything(model)
    with pytest.raises(ValueError, match="saved with another method"):
        fit(model, callbacks=[backup])
    assert_same(everything(model), before)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(OSError, match="truncated file"):
        fit(model, callbacks=[backup])
    assert_same(everything(model), before)


def test_of_two_backups_the_older_one_serves(tmp_path):
    """A run killed while it writes one goes on from the one before."""
    whole = trained(epochs=3)

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path, double_checkpoint=True, delete_checkpoint=False
        )

    keras.utils.set_random_seed(0)
    part = make(OURS)
    with pytest.raises(KeyboardInterrupt):
        fit(part, callbacks=[backup(), At(2, 0, stop)])
    weights = tmp_path / "latest.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-1000])
    keras.utils.set_random_seed(1)
    again = make(OURS)
    history = fit(again, callbacks=[backup()])
    assert history.epoch == [1, 2]
    assert_same(everything(again), everything(whole))


def test_loss_scale_and_derived_arrays_are_given_back(tmp_path):
    """What layers compute from their variables while loading goes back too."""

    def make(value):
        normalization = keras.layers.Normalization(axis=-1)
        normalization.adapt(value + X)
        inner = keras.Sequential(
            [keras.Input((10,)), normalization, keras.layers.Dense(4)]
        )
        outer = LWSAMModel(inner, "vasso", layers="all")
        outer.compile(decaying_sgd(), cross_entropy(), run_eagerly=True)
        return outer

    keras.config.set_dtype_policy("mixed_float16")
    model, other = make(0), make(7)
    for each in (model, other):
        fit(each, 1)
    path = tmp_path / "bad.weights.h5"
    other.save_weights(path)
    damaged(path, tmp_path / "b.weights.h5", "vars/clock")
    before = model.predict(X, verbose=0)
    assert "LossScale" in type(model.optimizer).__name__
    assert_refused(model, tmp_path / "b.weights.h5", "not that of this")
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)


def test_a_model_that_is_not_compiled(intact):
    """There is no optimizer to give anything back to."""
    keras.utils.set_random_seed(0)
    model = LWSAMModel(network(), "vasso")
    before = model.get_weights()
    with pytest.raises(ValueError, match="saved with another method"):
        model.load_weights(intact / "file.weights.h5")
    assert_equal(model.get_weights(), before)
