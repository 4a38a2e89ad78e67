"""What the tasks have of their own: defaults, and settings without effect."""

import dataclasses

from stacked_rnn.configs.base import UserError

# Where a task wants others than a language model.
TASK_DEFAULTS = {
    "language_model": {},
    "classifier": {
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
    "seq2seq": {
        "corpus": "dates_to_iso",
        "num_layers": 1,
        "units": 128,
        "bidirectional": True,
        "batch_size": 64,
        "epochs": 10,
        "sequence_length": 200,
    },
}


_OF_LABELS = ("text_field", "label_field", "label_separator", "class_weights")


_OF_PAIRS = ("source_field", "target_field", "decoder_layers")


_OF_STREAMS = (
    "skip_bad_files",
    "cache_dir",
    "document_separator",
    "carry_state",
    "train_windows",
    "validation_windows",
)


_OF_NO_USE = {  # by task
    "language_model": (
        *_OF_LABELS,
        *_OF_PAIRS,
        "pooling",
        "embedding_dropout",
    ),
    "classifier": (*_OF_PAIRS, *_OF_STREAMS),
    "seq2seq": (
        *_OF_LABELS,
        *_OF_STREAMS,
        "pooling",
        "embedding_dropout",
        "init_from",
    ),
}


def with_task_defaults(model_config, train_config, given):
    """The two configurations with the defaults of their task.

    Args:
        model_config, train_config: as asked for.
        given: names of the settings that somebody asked for.

    Raises:
        UserError: somebody asked for what the task has no use for.
    """
    task = train_config.task
    for config in (model_config, train_config):
        for field in dataclasses.fields(config):
            if (
                field.name in _OF_NO_USE[task]
                and field.name in given
                and getattr(config, field.name) != field.default
            ):
                raise UserError(f"--{field.name}: of no use with --task={task}")
    defaults = dict(TASK_DEFAULTS[task])
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
