"""The tasks as data: what every module may know about them.

The first of two registries; `stacked_rnn.tasks` has the other, of the code that
trains a task.
"""

import dataclasses
from collections.abc import Mapping

from stacked_rnn.configs.base import UserError


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """What is known about a task without importing its code.

    Attributes:
        title: what people call a model of it, with an article.
        use: what a command does with such a model.
        loaded_class: "module:class" of its SavedModel, once it is loaded.
        entries: what config.json of a SavedModel has besides the entries of
            all tasks.
        output_entries: those of them that give the outputs their meaning.
        defaults: settings whose defaults differ from those of the fields.
        ignored: settings without effect.
        free_settings: those in which a model that begins with the weights of
            a language model (`--init_from`) may differ from it.
        reset_settings: those that it never has from there.
        continues_texts: whether it draws tokens after a prompt.
        rewrites_texts: whether it finds texts by beam search.
        layers: a sentence about its layers, with the names of settings.
        quality: the result of the validation that says most.
        quality_format: how it is written, with its unit.
        is_share: whether it is a share of correct outputs, the higher the
            better; otherwise it is a cost.
        quality_text: a sentence with results of the validation.
    """

    title: str
    use: str
    loaded_class: str
    quality: str
    quality_format: str
    is_share: bool
    quality_text: str
    entries: tuple[str, ...] = ()
    output_entries: tuple[str, ...] = ()
    defaults: Mapping = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    free_settings: tuple[str, ...] = ("dropout", "recurrent_dropout")
    reset_settings: Mapping = dataclasses.field(default_factory=dict)
    continues_texts: bool = False
    rewrites_texts: bool = False
    layers: str = "{num_layers} layer(s)"


_LABELS = ("text_field", "label_field", "label_separator", "class_weights")
_PAIRS = ("source_field", "target_field", "decoder_layers")
_STREAMS = (
    "skip_bad_files",
    "cache_dir",
    "document_separator",
    "carry_state",
    "train_windows",
    "validation_windows",
)
_POOLING = ("pooling", "embedding_dropout")

TASKS = {
    "language_model": TaskInfo(
        title="a language model",
        use="generate.py continues texts with it",
        loaded_class="stacked_rnn.inference.language_model:SavedLanguageModel",
        quality="bits_per_character",
        quality_format="{:.3f} bits/char",
        is_share=False,
        quality_text="Validation: {bits_per_character:.2f} bits per character, "
        "perplexity {perplexity:.1f}.",
        entries=("sampling",),
        ignored=(*_LABELS, *_PAIRS, *_POOLING),
        continues_texts=True,
    ),
    "classifier": TaskInfo(
        title="a classifier",
        use="predict.py labels texts with it",
        loaded_class="stacked_rnn.inference.classifier:SavedClassifier",
        quality="accuracy",
        quality_format="accuracy {:.3f}",
        is_share=True,
        quality_text="Validation: {accuracy:.1%} of the labels are correct.",
        entries=("labels", "several_labels"),
        output_entries=("labels", "several_labels"),
        defaults={
            "tokenizer": "word",
            "num_layers": 1,
            "units": 64,
            "embedding_dim": 256,
            "embedding_stddev": 0.05,
            "bidirectional": True,
            "pooling": "max",
            "dropout": 0.5,
            "embedding_dropout": 0.8,
            "learning_rate": 0.002,
            "batch_size": 64,
            "epochs": 8,
            "sequence_length": 200,
        },
        ignored=(*_PAIRS, *_STREAMS),
        free_settings=(
            "dropout",
            "recurrent_dropout",
            "embedding_dropout",
            "bidirectional",
            "residual",
            "pooling",
        ),
        reset_settings={"tie_embeddings": False, "end_of_text": False},
    ),
    "seq2seq": TaskInfo(
        title="a seq2seq model",
        use="predict.py rewrites texts with it",
        loaded_class="stacked_rnn.inference.seq2seq:SavedSeq2Seq",
        quality="exact_match",
        quality_format="{:.1%} exact",
        is_share=True,
        quality_text="Validation: {exact_match:.1%} of the outputs are exactly "
        "the target.",
        entries=("search",),
        defaults={
            "corpus": "dates_to_iso",
            "num_layers": 1,
            "units": 128,
            "bidirectional": True,
            "batch_size": 64,
            "epochs": 10,
            "sequence_length": 200,
        },
        ignored=(*_LABELS, *_STREAMS, *_POOLING, "init_from"),
        rewrites_texts=True,
        layers="{num_layers} layer(s) that read, {decoder_layers} with "
        "attention that write",
    ),
}


def with_task_defaults(model_config, train_config, given):
    """The two configurations with the defaults of their task.

    Args:
        model_config, train_config: as asked for.
        given: names of the settings that somebody asked for.

    Raises:
        UserError: somebody asked for a setting that the task ignores.
    """
    task = train_config.task
    for config in (model_config, train_config):
        for field in dataclasses.fields(config):
            if (
                field.name in TASKS[task].ignored
                and field.name in given
                and getattr(config, field.name) != field.default
            ):
                raise UserError(
                    f"--{field.name}: has no effect with --task={task}"
                )
    defaults = dict(TASKS[task].defaults)
    if train_config.max_minutes:
        defaults["epochs"] = 0  # as many as fit
    defaults = {
        name: value for name, value in defaults.items() if name not in given
    }
    return tuple(
        dataclasses.replace(
            config,
            **{
                name: value
                for name, value in defaults.items()
                if hasattr(config, name)
            },
        )
        for config in (model_config, train_config)
    )
