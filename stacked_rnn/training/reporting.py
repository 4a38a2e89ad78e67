"""Sample texts while a model is trained."""

import keras
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams


class SampleTexts(keras.callbacks.Callback):
    """A sample after each epoch, printed and in TensorBoard with the settings.

    Args:
        trainer: the `Trainer`, which has a directory.
        sample: epoch -> text.
    """

    def __init__(self, trainer, sample):
        super().__init__()
        self._directory = trainer.model_dir / "tensorboard" / "train"
        self._sample = sample
        settings = trainer.model.config.to_dict() | trainer.config.to_dict()
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
