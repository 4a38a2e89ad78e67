"""What a person looks at: sample texts, TensorBoard, curves."""

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from stacked_rnn import files


class SampleTexts(keras.callbacks.Callback):
    """A sample after each epoch, printed and in TensorBoard with the settings.

    Args:
        directory: where TensorBoard finds the training curves.
        settings: name -> value, the hyper-parameters.
        sample: epoch -> text.
    """

    def __init__(self, directory, settings, sample):
        super().__init__()
        self._directory, self._sample = directory, sample
        self._settings = {
            name: value
            for name, value in settings.items()
            if isinstance(value, bool | int | float | str)
        }

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(str(self._directory))
        with self._writer.as_default(step=0):
            hparams.hparams(self._settings)

    def on_epoch_end(self, epoch, logs=None):
        text = self._sample(epoch)
        print("  sample: " + text)
        with self._writer.as_default(step=epoch):
            tf.summary.text("sample", text)

    def on_train_end(self, logs=None):
        self._writer.close()


def draw_curves(history, path) -> bool:
    """Draws the curves of a run as a PNG; False without matplotlib.

    Args:
        history: for each epoch its results, as in history.csv.
        path: of the picture.
    """
    try:
        from matplotlib import figure, ticker
    except ImportError:
        return False
    picture = figure.Figure(figsize=(10, 3.2), layout="constrained")
    panels = {
        "nats": {"loss": "training", "val_loss": "validation"},
        "accuracy": {"accuracy": "training", "val_accuracy": "validation"},
        "learning rate": {"learning_rate": ""},
        "norm of the gradient": {"gradient_norm": ""},
    }
    panels = {
        title: curves
        for title, curves in panels.items()
        if not curves.keys().isdisjoint(history[0])
    }
    epochs = [row["epoch"] + 1 for row in history]
    for axes, (title, curves) in zip(
        picture.subplots(1, len(panels)), panels.items()
    ):
        for name, label in curves.items():
            if name in history[0]:
                values = [row[name] for row in history]
                axes.plot(epochs, values, marker=".", label=label)
        if len(curves) > 1:
            axes.legend()
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    with files.whole_file(path) as file:
        picture.savefig(file, format="png", dpi=150)
    return True


def draw_classification(result, labels, path) -> bool:
    """Draws how right a classifier is, as a PNG; False without matplotlib.

    Args:
        result: what `SavedClassifier.evaluate` gave.
        labels: names of the classes.
        path: of the picture.
    """
    try:
        from matplotlib import figure
    except ImportError:
        return False
    confusion = result.get("confusion")
    picture = figure.Figure(figsize=(10, 4.5), layout="constrained")
    *left, right = picture.subplots(
        1, 1 + (confusion is not None), squeeze=False
    )[0]
    for axes in left:
        image = axes.imshow(confusion, cmap="Blues", vmin=0)
        picture.colorbar(image, ax=axes, shrink=0.8)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title("confusion: rows are, columns were said")
        if len(labels) <= 12:
            half = max(map(max, confusion)) / 2
            for row, counts in enumerate(confusion):
                for column, count in enumerate(counts):
                    axes.text(
                        column, row, f"{count:,}", ha="center", va="center",
                        color="white" if count > half else "black",
                    )  # fmt: skip
    bins = result["calibration"]
    right.plot([0, 1], [0, 1], "--", color="gray", label="perfect")
    right.plot(
        [one["confidence"] for one in bins],
        [one["accuracy"] for one in bins],
        marker="o",
        label=f"error {result['calibration_error']:.3f}",
    )
    right.set_title("calibration")
    right.set_xlabel("how sure the model is")
    right.set_ylabel("how often it is right")
    right.legend()
    with files.whole_file(path) as file:
        picture.savefig(file, format="png", dpi=150)
    return True
