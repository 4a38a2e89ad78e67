"""The registry of the tasks as data, which every module may import.

The code that trains a task is registered in `stacked_rnn.tasks.TASKS`.
"""

import dataclasses
from collections.abc import Callable, Mapping

from stacked_rnn.configs.base import UserError
from stacked_rnn.configs.decoding import BeamConfig, SamplingConfig
from stacked_rnn.configs.model import REGULARIZERS


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """Description of a task that needs none of its code.

    Attributes:
        title: name of a model of the task, with an article.
        use: the command to use such a model with, and what it does.
        pipeline_tag: the name of the task on the Hugging Face Hub.
        loaded_class: "module:class" of a loaded SavedModel.
        entries: keys in the config.json of its SavedModels, besides those that
            all tasks have, and what makes a value of the JSON value of each.
        output_entries: the `entries` that give the outputs their meaning.
        defaults: settings whose defaults differ from those of the fields.
        ignored: settings without effect.
        free_settings: settings that may differ from those of the language
            model whose weights a run begins with (`--init_from`).
        reset_settings: settings that are never taken from that model.
        continues_texts: whether a model draws tokens after a prompt.
        rewrites_texts: whether a model finds its output by beam search.
        layers: template of a phrase about the layers; its fields are settings.
        quality: name of the main result of a validation.
        quality_format: template that formats `quality`, with its unit.
        is_share: whether `quality` is a share of correct outputs, higher is
            better; otherwise it is a cost, lower is better.
        quality_text: template of a sentence; its fields are results of the
            validation.
    """

    title: str
    use: str
    pipeline_tag: str
    loaded_class: str
    quality: str
    quality_format: str
    is_share: bool
    quality_text: str
    entries: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    output_entries: tuple[str, ...] = ()
    defaults: Mapping = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    free_settings: tuple[str, ...] = REGULARIZERS
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
    "half_windows",
    "train_windows",
    "validation",
    "validation_windows",
    "widen_vocabulary",
)
_NEXT_TOKENS = (
    "readout_layers",
    "embedding_to_all_layers",
    "token_dropout",
    "output_dropout",
    "label_smoothing",
    "sampled_words",
    "reset_states",
    "activation_penalty",
    "temporal_penalty",
)

TASKS = {
    "language_model": TaskInfo(
        title="a language model",
        use="generate.py continues texts with it",
        pipeline_tag="text-generation",
        loaded_class="stacked_rnn.inference.language_model:SavedLanguageModel",
        quality="bits_per_character",
        quality_format="{:.3f} bits/char",
        is_share=False,
        quality_text="Validation: {bits_per_character:.2f} bits per character, "
        "perplexity {perplexity:.1f}.",
        entries={"sampling": SamplingConfig.from_dict},
        ignored=(*_LABELS, *_PAIRS, "pooling"),
        continues_texts=True,
    ),
    "classifier": TaskInfo(
        title="a classifier",
        use="predict.py labels texts with it",
        pipeline_tag="text-classification",
        loaded_class="stacked_rnn.inference.classifier:SavedClassifier",
        quality="accuracy",
        quality_format="accuracy {:.3f}",
        is_share=True,
        quality_text="Validation: {accuracy:.1%} of the labels are correct.",
        entries={"labels": tuple, "several_labels": bool, "max_tokens": int},
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
        ignored=(*_PAIRS, *_STREAMS, *_NEXT_TOKENS),
        free_settings=(*REGULARIZERS, "bidirectional", "residual", "pooling"),
        reset_settings={
            "tie_embeddings": False,
            "end_of_text": False,
            "readout_layers": "top",
            "embedding_to_all_layers": False,
        },
    ),
    "seq2seq": TaskInfo(
        title="a seq2seq model",
        use="predict.py rewrites texts with it",
        pipeline_tag="text2text-generation",
        loaded_class="stacked_rnn.inference.seq2seq:SavedSeq2Seq",
        quality="exact_match",
        quality_format="{:.1%} exact",
        is_share=True,
        quality_text="Validation: {exact_match:.1%} of the outputs are exactly "
        "the target.",
        entries={"search": BeamConfig.from_dict},
        defaults={
            "corpus": "dates_to_iso",
            "num_layers": 1,
            "units": 128,
            "bidirectional": True,
            "batch_size": 64,
            "epochs": 10,
            "sequence_length": 200,
        },
        ignored=(
            *_LABELS,
            *_STREAMS,
            *_NEXT_TOKENS,
            "letters_only",
            "pooling",
            "embedding_dropout",
            "init_from",
            "learn_all",
        ),
        rewrites_texts=True,
        layers="{num_layers} encoder layer(s), {decoder_layers} decoder "
        "layer(s) with attention",
    ),
}


def with_task_defaults(model_config, train_config, given):
    """Replaces defaults by those of the task.

    Args:
        model_config, train_config: the settings, of `train_config.task`.
        given: names of the settings that the user has set.

    Returns:
        The two configurations.

    Raises:
        UserError: the user has set a setting that the task ignores.
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
    return replace_settings(
        (model_config, train_config),
        {name: value for name, value in defaults.items() if name not in given},
    )


def replace_settings(configs, values) -> tuple:
    """Replaces settings, each in the configuration that has it."""
    return tuple(
        dataclasses.replace(
            config,
            **{
                name: value
                for name, value in values.items()
                if hasattr(config, name)
            },
        )
        for config in configs
    )
