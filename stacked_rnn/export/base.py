"""What all exported models share: a module of text in, text out, and `save`."""

import json
import pathlib
import tempfile
import types

import tensorflow as tf

from stacked_rnn import model_cards, saved_models
from stacked_rnn.configs import UserError
from stacked_rnn.export import warmup_requests


class ExportedModel(tf.Module):
    """Tokenizer and model in one module, with signatures to serve.

    Args:
        model: a Keras model without dropout (`for_inference`), with `config`.
        tokenizer: a `tokenizers.Tokenizer`.

    Attributes:
        task: in `configs.TASKS`.
        weights: the variables of the model.
        tokenizer: as given.
    """

    task: str

    def __init__(self, model, tokenizer):
        super().__init__()
        # A SavedModel saves what it tracks: of a Keras model a graph of its
        # own, besides the weights.
        self._untracked = types.SimpleNamespace(model=model)
        self.weights = [weight.value for weight in model.weights]
        self.tokenizer = tokenizer

    @property
    def model(self):
        """The Keras model inside."""
        return self._untracked.model

    def signatures(self) -> dict:
        """The functions to serve, by name."""
        raise NotImplementedError

    def entries(self) -> dict:
        """What config.json has for models of the task alone: JSON values."""
        return {}

    def warmup(self) -> list[tuple[str, dict]]:
        """Requests that warm a server up: (signature, inputs) each."""
        raise NotImplementedError

    def save(
        self, export_dir, training=None, chat_template=None
    ) -> pathlib.Path:
        """Writes the next version of the SavedModel, whole or not at all.

        Args:
            export_dir: the directory of the versions.
            training: how the model was trained (`Trainer.summary`), JSON
                values, or None.
            chat_template: a Jinja template that makes a text of the messages
                of a chat, or None.

        Returns:
            The directory of the version, export_dir/VERSION.

        Raises:
            UserError: it cannot be written.
        """
        export_dir = pathlib.Path(export_dir)
        try:
            export_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                ".partial", "export-", export_dir, ignore_cleanup_errors=True
            ) as scratch:
                partial = pathlib.Path(scratch, "version")
                self._write(partial, training, export_dir.resolve().name)
                if chat_template is not None:
                    saved_models.write_chat_template(partial, chat_template)
                return saved_models.take_next_number(partial, export_dir)
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--export_dir={export_dir}: cannot write there ({reason}): "
                "free some space or mend its permissions, and the same command "
                "exports the run"
            ) from error

    def _write(self, directory, training, name):
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer_json = pathlib.Path(
                scratch, pathlib.Path(saved_models.TOKENIZER_FILE).name
            )
            tokenizer_json.write_text(
                json.dumps(self.tokenizer.to_dict(), ensure_ascii=False),
                encoding="utf-8",
            )
            self.tokenizer_json = tf.saved_model.Asset(str(tokenizer_json))
            tf.saved_model.save(
                self, str(directory), signatures=self.signatures()
            )
        config_json = directory / saved_models.CONFIG_FILE
        config_json.parent.mkdir()
        config = {
            "task": self.task,
            "model": self.model.config.to_dict(),
            **self.entries(),
            "training": training,
        }
        config_json.write_text(
            json.dumps(config, indent=2) + "\n", encoding="utf-8"
        )
        warmup_requests.write(directory / warmup_requests.FILE, self.warmup())
        card = model_cards.readme(
            name,
            saved_models.read_description(directory),
            self.model.count_params(),
        )
        (directory / "README.md").write_text(card, encoding="utf-8")
