"""Models of KerasCV: detectors with steps and losses of their own, others."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_cv import models
from keras_cv.src.training import ContrastiveTrainer

from keras_lwsam import LWSAMModel, analysis
from tests.support import assert_equal, momentum_sgd, weights_of

pytestmark = [
    # KerasCV 0.9 hands its RetinaNet images where Keras expects a dict.
    pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs` doesn't"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]

SIDE = 32
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
LABELS = np.eye(3, dtype="float32")[[0, 2]]
MASKS = np.eye(3, dtype="float32")[RANDOM.integers(0, 3, (2, SIDE, SIDE))]
BOXES = {
    "boxes": np.array([[[2, 2, 28, 28], [8, 8, 20, 20]]] * 2, "float32"),
    "classes": np.array([[0, 1]] * 2, "float32"),
}
BOX_FORMAT = "xywh"


class MeanBoxes(keras.metrics.Mean):
    """A metric of decoded boxes, as KerasCV calls it."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        assert set(y_true) == {"boxes", "classes"}
        super().update_state(y_pred["num_detections"])


def backbone():
    keras.utils.set_random_seed(0)
    return models.ResNetBackbone(
        stackwise_filters=[64, 8, 8, 8],
        stackwise_blocks=[1] * 4,
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
        block_type="basic_block",
        input_shape=IMAGES.shape[1:],
    )


def classifier():
    task = models.ImageClassifier(backbone(), num_classes=3)
    how = {"loss": "categorical_crossentropy", "metrics": ["accuracy"]}
    return task, LABELS, how


def deeplab():
    task = models.DeepLabV3Plus(backbone(), num_classes=3, projection_filters=4)
    return task, MASKS, {"loss": "categorical_crossentropy"}


def retinanet():
    task = models.RetinaNet(
        backbone(), num_classes=2, bounding_box_format=BOX_FORMAT
    )
    how = {
        "box_loss": "huber",
        "classification_loss": "focal",
        "metrics": [MeanBoxes(name="boxes")],
    }
    return task, BOXES, how


def yolo():
    keras.utils.set_random_seed(0)
    small = models.YOLOV8Backbone(
        stackwise_channels=[4] * 4,
        stackwise_depth=[1] * 4,
        include_rescaling=True,
        input_shape=IMAGES.shape[1:],
    )
    task = models.YOLOV8Detector(
        small, num_classes=2, bounding_box_format=BOX_FORMAT, fpn_depth=1
    )
    how = {"box_loss": "ciou", "classification_loss": "binary_crossentropy"}
    return task, BOXES, how


def train(model, y, how, rate=1e-3):
    model.compile(optimizer=momentum_sgd(rate), **how, run_eagerly=True)
    return model.fit(IMAGES, y, verbose=0).history


@pytest.mark.parametrize(
    "make",
    [
        classifier,
        # There it asks for torchvision.
        pytest.param(retinanet, marks=pytest.mark.not_torch),
        pytest.param(yolo, marks=pytest.mark.exhaustive),
        pytest.param(deeplab, marks=pytest.mark.exhaustive),
    ],
    ids=lambda f: f.__name__,
)
def test_every_model(make):
    """Radius 0 is the model's own training; SAM trains it further."""
    ends = []
    for wrap in (False, True):
        task, y, how = make()
        model = task
        if wrap:
            model = LWSAMModel(task, rho=0.0, sharpness_metrics=False)
        logs = train(model, y, how)
        predictions = keras.tree.flatten(model.predict(IMAGES, verbose=0))
        ends.append((logs, [*weights_of(task), *predictions]))
    (plain_logs, plain), (logs, wrapped) = ends
    assert logs == plain_logs
    assert_equal(wrapped, plain)

    before = weights_of(task)
    logs = train(LWSAMModel(task, layers=2, rho=0.1), y, how)
    assert np.isfinite(list(logs.values())).all()
    assert logs["sharpness"][0] != 0.0
    pairs = zip(weights_of(task), before, strict=True)
    assert np.mean([(a != b).any() for a, b in pairs]) > 0.8


def test_a_detector_is_saved_and_trained(tmp_path):
    """Its `compile` is given again what it was given."""
    task, y, how = yolo()
    model = LWSAMModel(task, layers=2, rho=0.1)
    model.compile(optimizer="sgd", **how, box_loss_weight=3.0, run_eagerly=True)
    model.optimizer.build(task.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(weights_of(loaded), weights_of(model))
    assert loaded.model.box_loss_weight == 3.0
    logs = loaded.fit(IMAGES, y, verbose=0).history
    assert set(logs) > {"box_loss", "class_loss", "sharpness"}
    assert np.isfinite(list(logs.values())).all()
    assert (weights_of(loaded)[0] != weights_of(model)[0]).any()


@pytest.mark.exhaustive
def test_a_detector_is_evaluated_and_analysed():
    task, y, how = retinanet()
    task.compile(optimizer="sgd", **how, run_eagerly=True)
    logs = task.evaluate(IMAGES, y, return_dict=True, verbose=0)
    assert set(logs) > {"loss", "box_loss", "boxes"}
    model = LWSAMModel(task)
    assert model.evaluate(IMAGES, y, return_dict=True, verbose=0) == logs
    batches = tf.data.Dataset.from_tensors(
        {"images": IMAGES, "bounding_boxes": y}
    )
    for data in ((IMAGES, y), (batches,)):
        objective = analysis.Objective(task, *data)
        assert float(objective.loss()) == pytest.approx(logs["loss"])


class Contrastive(ContrastiveTrainer):
    """With its step; its constructor knows no Keras 3."""

    def __init__(self):
        keras.Model.__init__(self)


def test_a_tape_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"train_step.*super\(\).*Received"):
        LWSAMModel(Contrastive())
