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
        "nats per token": {"loss": "training", "val_loss": "validation"},
        "learning rate": {"learning_rate": ""},
        "norm of the gradient": {"gradient_norm": ""},
    }
    epochs = [row["epoch"] + 1 for row in history]
    for axes, (title, curves) in zip(picture.subplots(1, 3), panels.items()):
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
