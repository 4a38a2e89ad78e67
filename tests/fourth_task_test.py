"""A fourth task needs files of its own and an entry in each of two registries.

Here the files are one: a regression, which counts the letter a in a text.
"""

import dataclasses
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, export, inference, tasks, tokenizers
from stacked_rnn.cli import train
from stacked_rnn.datasets import batches
from stacked_rnn.export import base as export_base
from stacked_rnn.inference import base as inference_base
from stacked_rnn.models import stacks
from stacked_rnn.serving import repository
from stacked_rnn.tasks import base as tasks_base
from tests.helpers import ROOT

INFO = configs.TaskInfo(
    title="a regression",
    use="Python predicts numbers with it",
    pipeline_tag="tabular-regression",
    loaded_class=f"{__name__}:SavedRegression",
    quality="rmse",
    quality_format="rmse {:.3f}",
    is_share=False,
    quality_text="Validation: off by {rmse:.2f}.",
    defaults={"num_layers": 1, "units": 12, "embedding_dim": 4},
    ignored=("carry_state",),
)


@dataclasses.dataclass
class Data:
    tokenizer: tokenizers.Tokenizer
    training: batches.Examples
    validation: batches.Examples
    digest: str = "a"
    unknown_share: float = 0.0


class Regression(stacks.Model):
    def __init__(self, config, use_cudnn=False, **kwargs):
        self.embedding = keras.layers.Embedding(
            config.vocabulary_size, config.embedding_dim
        )
        self.recurrent_layers = [
            stacks.recurrent_layer(config, "rnn_0", use_cudnn)
        ]
        self.readout = keras.layers.Dense(1)
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        mask = keras.Input((None,), dtype="bool", name="mask")
        x = self.recurrent_layers[0](self.embedding(token_ids), mask=mask)
        super().__init__(
            {"token_ids": token_ids, "mask": mask}, self.readout(x), **kwargs
        )
        self.config = config


@dataclasses.dataclass
class Score:
    squares: float
    texts: float

    def logs(self, prefix=""):
        loss = self.squares / self.texts
        return {f"{prefix}loss": loss, f"{prefix}rmse": math.sqrt(loss)}


class RegressionTask(tasks_base.Task):
    name = "regression"
    unit = "texts"
    has_logits_at_each_token = False

    @classmethod
    def read(cls, start):
        rng = np.random.default_rng(0)
        texts = ["".join(rng.choice(list("abc"), 5)) for _ in range(300)]
        tokenizer = tokenizers.build("char", "".join(texts).encode())
        token_ids = [ids.numpy() for ids in tokenizer.tokenize(texts)]
        targets = np.array([[text.count("a")] for text in texts], np.int32)
        size = start.train_config.batch_size
        parts = (slice(0, 240), slice(240, 300))
        return cls(
            Data(
                tokenizer,
                *(
                    batches.Examples(token_ids[part], targets[part], size, seed)
                    for part, seed in zip(parts, (0, None))
                ),
            )
        )

    def build(self, model_config, use_cudnn):
        return Regression(model_config, use_cudnn)

    def sums(self, model, inputs, targets, states, seed=None):
        is_text = tf.cast(targets >= 0, tf.float32)
        predicted = model(inputs, training=seed is not None)
        predicted = tf.cast(predicted, tf.float32)
        squares = (predicted - tf.cast(targets, tf.float32)) ** 2
        sums = (tf.reduce_sum(squares * is_text), tf.reduce_sum(is_text))
        return tf.stack(sums), states

    def score(self, sums, batches):
        return Score(*sums)

    def exported(self, model):
        return ExportedRegression(model, self.data.tokenizer)


class ExportedRegression(export_base.ExportedModel):
    task = "regression"

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.string, "texts")],
    )
    def serving_default(self, texts):
        token_ids = self.tokenizer.tokenize(texts)
        padded = tf.pad(token_ids.to_tensor(), [[0, 0], [0, 1]])
        mask = tf.sequence_mask(token_ids.row_lengths(), tf.shape(padded)[1])
        return {"numbers": self.model({"token_ids": padded, "mask": mask})}

    def signatures(self):
        return {"serving_default": self.serving_default}

    def warmup(self):
        return [("serving_default", {"texts": tf.constant([b""])})]


class SavedRegression(inference_base.LoadedModel):
    def predict(self, texts):
        found = self.functions.signatures["serving_default"](
            texts=tf.constant(inference_base.encode(texts))
        )
        return found["numbers"].numpy()[:, 0].tolist()


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """The two entries."""
    monkeypatch.setitem(configs.TASKS, "regression", INFO)
    monkeypatch.setitem(tasks.TASKS, "regression", RegressionTask)
    monkeypatch.chdir(tmp_path)


def run(epochs):
    """What train.py does."""
    settings = configs.TrainConfig(
        task="regression", corpus="letters", epochs=epochs, batch_size=16,
        learning_rate=0.03, jit_compile=False,
        learning_rate_schedule="constant",
    )  # fmt: skip
    train.main(
        *configs.with_task_defaults(configs.ModelConfig(), settings, {"epochs"})
    )


def test_it_trains_resumes_exports_and_loads(registered, capsys):
    run(epochs=1)
    assert "Epoch 1/1  loss" in capsys.readouterr().out
    run(epochs=1)
    assert "Nothing is left to do" in capsys.readouterr().out
    run(epochs=6)
    output = capsys.readouterr().out
    assert "resuming at step 15" in output and "  rmse 0." in output
    model = inference.load("saved_models/letters")
    assert isinstance(model, SavedRegression) and model.path.name == "2"
    np.testing.assert_allclose(
        model.predict(["aabac", "bcbbc"]), [3, 0], atol=0.6
    )
    served = repository.Repository("saved_models", "", None, 9, False)
    served.update()
    card = " ".join(served["letters"].card)
    assert "GRU regression of 12 units" in card and "off by 0." in card
    served.close(0)
    with pytest.raises(configs.UserError, match="a regression: Python"):
        inference.load("saved_models/letters", "language_model")


def test_an_ignored_setting_is_refused(registered):
    with pytest.raises(configs.UserError, match="no effect with --task=reg"):
        configs.with_task_defaults(
            configs.ModelConfig(),
            configs.TrainConfig(task="regression", carry_state=True),
            {"carry_state"},
        )


def test_the_registries_name_the_same_tasks():
    assert tasks.TASKS.keys() == configs.TASKS.keys()
    for name in tasks.TASKS:
        assert tasks.TASKS[name].name == name
    assert {kind.task for kind in export_base.ExportedModel.__subclasses__()
            if kind.__module__.startswith(export.__name__)} == {
        *configs.TASKS
    }  # fmt: skip


def test_only_the_files_of_a_task_name_it():
    """But for the registry, a default, and commands for language models."""
    allowed = {
        "configs/tasks.py", "configs/training.py", "cli/generate.py",
        "cli/export.py", "cli/inspect.py", "saved_models.py",
        *(f"{package}/{name}.py" for name in configs.TASKS
          for package in ("export", "tasks")),
    }  # fmt: skip
    names = re.compile("|".join(f'"{name}"' for name in configs.TASKS))
    found = {
        str(path.relative_to(ROOT / "stacked_rnn"))
        for path in (ROOT / "stacked_rnn").rglob("*.py")
        if names.search(path.read_text(encoding="utf-8"))
    }
    assert found <= allowed
