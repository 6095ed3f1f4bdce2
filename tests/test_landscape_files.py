"""Files of landscapes: what they hold, and what is refused."""

import numpy as np
import pytest

from keras_lwsam import analysis
from tests.landscapes import landscape, line
from tests.support import (
    assert_close,
    assert_equal,
)


def example():
    return analysis.Landscape(
        losses=np.array([[1.0, np.nan, np.inf], [2.0, 3.0, 4.0]]),
        coordinates=([0.0, 1.0], [-1.0, 0.0, 2.5]),
        labels=("β", "second"),
        path=[[0.5, 0.5]],
        path_labels=["now"],
        explained=[0.75, 0.125],
        name="Loss of a network",
    )


@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_a_file_holds_everything_without_pickles(tmp_path, name):
    saved = example()
    saved.save(tmp_path / name)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert all(data[key].dtype != object for key in data.files)
    loaded = analysis.Landscape.load(tmp_path / "a.npz")
    assert_equal([loaded.losses], [saved.losses])
    assert_equal(loaded.coordinates, saved.coordinates)
    assert_equal([loaded.path, loaded.explained], [[[0.5, 0.5]], [0.75, 0.125]])
    assert loaded.labels == ("β", "second")
    assert loaded.path_labels == ("now",)
    assert loaded.name == "Loss of a network"


def test_a_file_of_what_was_computed(tmp_path):
    """A line: without labels of points, and without shares."""
    found = landscape(
        *line(), directions=analysis.RandomDirections(1), num_points=3
    )
    bare = analysis.Landscape(found.losses, found.coordinates, found.labels)
    for saved in (found, bare):
        saved.save(str(tmp_path / "line.npz"))
        loaded = analysis.Landscape.load(str(tmp_path / "line.npz"))
        assert_close([loaded.losses], [saved.losses], 0.0)
        assert loaded.path.shape == (len(saved.path), 1)
        assert loaded.path_labels == saved.path_labels
        assert loaded.explained.shape == (0,)
        assert loaded.name == saved.name


def write_truncated(path):
    example().save(path)
    path.write_bytes(path.read_bytes()[:-40])


def write_without_labels(path):
    np.savez(path, losses=np.zeros(2), coordinates_0=np.zeros(2))


def write_pickled(path):
    np.savez(path, losses=np.array([{}]))


def write_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_of_two_shapes(path):
    fields = {"labels": ["a"], "path_labels": np.zeros(0, str), "name": "a"}
    np.savez(
        path,
        losses=np.zeros(2),
        coordinates_0=np.zeros(3),
        path=np.zeros((0, 1)),
        explained=np.zeros(0),
        **fields,
    )


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("loss,epoch\n1.0,2\n"),
    "truncated": write_truncated,
    "another table": write_without_labels,
    "pickled": write_pickled,
    "an array": write_array,
    "two shapes": write_of_two_shapes,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused(tmp_path, kind):
    path = tmp_path / "landscape.npz"
    FOREIGN[kind](path)
    with pytest.raises(ValueError, match="landscape"):
        analysis.Landscape.load(path)


def test_landscapes_whose_parts_do_not_fit():
    one, two = np.zeros(3), np.zeros((3, 3))
    for arguments in (
        (two, (one,), ("a",)),
        (one, (np.zeros(2),), ("a",)),
        (one, (one,), ("a", "b")),
        (one, (one,), ("a",), np.zeros((2, 2))),
        (one, (one,), ("a",), np.zeros((2, 1)), ("now",)),
    ):
        with pytest.raises(ValueError, match="one axis, one vector"):
            analysis.Landscape(*arguments)
