"""Training from Python: `stacked_rnn.train`."""

import contextlib
import os
import time

import keras

from stacked_rnn import configs, inference, pipeline


def train(corpus=None, *, minutes=None, callbacks=(), verbose=True, **settings):
    """Trains a model on a text, exports it, and loads it.

        model = stacked_rnn.train("mine.txt", minutes=2)
        print(model.generate("Once ", max_new_tokens=200))

    It does what train.py does, and prints what that prints: settings that are
    left out fit the text, the machine and the time; the run is in runs/mine,
    the model in saved_models/mine; an interrupted run resumes with the same
    call.

    Args:
        corpus: path of a text file, or whatever `--corpus` takes; None: its
            default.
        minutes: how long to train, as `--max_minutes`.
        callbacks: Keras callbacks. With `ReduceLROnPlateau` or
            `LearningRateScheduler`, the learning rate has no schedule besides.
            An error in a callback ends the call with a checkpoint, at which
            the same call resumes.
        verbose: whether to print the plan and the progress. Warnings go to
            standard error in any case.
        **settings: the other settings of `configs.ModelConfig` and
            `configs.TrainConfig`, by the names of their flags.

    Returns:
        The loaded model, see `load`.

    Raises:
        UserError: there is no such setting, or its value or the text cannot be
            used.
    """
    started = time.monotonic()
    config_classes = (configs.ModelConfig, configs.TrainConfig)
    if corpus is not None:
        if not isinstance(corpus, str | os.PathLike):
            raise configs.UserError(
                f"--corpus={corpus!r:.60}: expected the path of a text"
            )
        settings["corpus"] = corpus
    if minutes is not None:
        settings["max_minutes"] = minutes
    configs.check_names(settings, *config_classes)
    model_config, train_config = configs.replace_settings(
        [config_class() for config_class in config_classes],
        configs.plain_values(settings),
    )
    callbacks = keras.tree.flatten(callbacks or [])  # one, or a list
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise configs.UserError(
                f"callbacks: {callback!r:.60} is no keras.callbacks.Callback"
            )
    with contextlib.ExitStack() as stack:
        if not verbose:
            nowhere = stack.enter_context(
                open(os.devnull, "w", encoding="utf-8")
            )
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        outcome = pipeline.train(
            model_config,
            train_config,
            frozenset(settings),
            started=started,
            callbacks=callbacks,
        )
    if outcome is None:
        raise configs.UserError(
            "train: only the chief of several processes gets the model: use "
            "train.py there"
        )
    if verbose and outcome.is_new:
        print(f"Exported {outcome.version}")
    return inference.load(outcome.version)
