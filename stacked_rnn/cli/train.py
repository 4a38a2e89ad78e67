"""Trains a recurrent model on your text and exports it.

  python train.py                                  a text that Python ships
  python train.py --corpus=mine.txt --epochs=20    your own text
  python train.py --corpus=mine.txt --max_minutes=10
  python train.py --flagfile=recipes/timemachine.flags
  python train.py --corpus=mine.txt --init_from=saved_models/pydoc
  python train.py --task=classifier --corpus=labelled.tsv
  python train.py --task=seq2seq --corpus=pairs.tsv

What no flag gives is chosen to fit a language model to its text, the machine
and the time: the size of the model, dropout, batches and learning rate. The
values in brackets are then those of the other tasks.

Writes the run to runs/CORPUS (checkpoints, TensorBoard, history.csv) and the
model to saved_models/CORPUS/1, 2, 3 ... After an interruption, the same command
resumes the run. Then: python generate.py --prompt="The "
"""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
import time

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.utils import terminal, text_files

_RESERVE = 5.0  # seconds
_LAST_PASS = 0.1  # share of the time limit that --learn_all takes
_LAST_RATE = 0.2  # of the learning rate
_ENDINGS = (".gz", ".txt", ".text", ".md", ".tsv", ".csv", ".jsonl")


def main(model_config, train_config):
    """Trains and exports with the strategy that the flags name."""
    import keras

    from stacked_rnn import training
    from stacked_rnn.utils import devices

    keras.config.set_floatx("float32")  # whatever keras.json says
    sys.stdout = terminal.SurvivingOutput(sys.stdout)
    model_config, train_config = configs.with_task_defaults(
        model_config, train_config, flags.given_flags()
    )
    with training.lost_workers_explained(), devices.errors_explained():
        train(
            model_config,
            train_config,
            training.make_strategy(
                train_config.strategy, train_config.wait_minutes
            ),
        )


def train(model_config, train_config, strategy):
    """Trains and exports; with several processes, only the chief writes."""
    from stacked_rnn import tasks, training
    from stacked_rnn.training import warm_start

    chat_template = _read_template(train_config)
    name = name_of(train_config.corpus)
    model_dir = train_config.model_dir or f"runs/{name}"
    export_dir = train_config.export_dir or f"saved_models/{name}"
    start = warm_start.resolve_init_from(
        model_config, train_config, model_dir, flags.given_flags()
    )
    past = None
    if train_config.resume is not False:
        past = training.past_record(model_dir)
    start = dataclasses.replace(start, given=flags.given_flags(), past=past)
    task = tasks.TASKS[train_config.task].read(start)
    if task.chosen:
        start = start.with_settings(task.chosen.settings)
    model_config = task.complete(start.model_config)
    terminal.writable_directory("export_dir", export_dir)
    model_dir = terminal.writable_directory("model_dir", model_dir)
    with contextlib.ExitStack() as stack:
        if training.Workers(strategy).is_chief:
            stack.enter_context(training.lock_run(model_dir))
        _train(
            start,
            task,
            model_config,
            strategy,
            model_dir,
            export_dir,
            chat_template,
        )


def _read_template(train_config) -> str | None:
    """Reads the file of --chat_template, if there is one."""
    path = train_config.chat_template
    if not path:
        return None
    if not configs.TASKS[train_config.task].continues_texts:
        raise configs.UserError(
            "--chat_template: only language models have chats"
        )
    try:
        text = terminal.read_file("chat_template", path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise configs.UserError(f"--chat_template={path}: not UTF-8") from error
    return text.replace("\r\n", "\n")


def name_of(corpus) -> str:
    """The name of a run: its corpus' first file, without endings."""
    path = pathlib.PurePath(next(text_files.parts(corpus)))
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return path.name.strip("-*?[]. ") or "corpus"


def _train(
    start, task, model_config, strategy, model_dir, export_dir, chat_template
):
    import keras

    from stacked_rnn import saved_models, training, version_changes
    from stacked_rnn.reports import plots
    from stacked_rnn.training import descriptions

    trainer = training.Trainer(
        model_config,
        start.train_config,
        task,
        model_dir,
        strategy,
        initial_weights=task.initial_weights(start, model_config),
    )
    # The export takes about as long as the start, and a little more.
    reserve = time.monotonic() - flags.STARTED + _RESERVE
    last_pass = 0.0
    if start.train_config.learn_all and trainer.is_timed:
        last_pass = _LAST_PASS * start.train_config.max_minutes
    limits = {"started": flags.STARTED, "reserve": reserve + 60 * last_pass}
    if not trainer.is_chief:
        trainer.fit(**limits)
        _learn_all(trainer, start, task, strategy, model_dir, last_pass)
        return
    learns_all = start.train_config.learn_all and bool(task.data.validation)
    version = training.find_export(
        model_dir, _stage(trainer, learns_all), export_dir
    )
    if (
        trainer.is_finished
        and version
        and saved_models.chat_template(version) == chat_template
    ):
        print(
            f"Nothing is left to do: the run in {model_dir} ended with step "
            f"{trainer.step}, and {version} holds its best model.\n"
            f"{_how_to_continue(trainer)} continues it; --noresume starts over."
        )
        return
    task.warn()
    # The settings as given, without what the tokenizer has added to them.
    given_config = dataclasses.replace(
        model_config, vocabulary_size=start.model_config.vocabulary_size
    )
    (model_dir / "config.flags").write_text(
        flags.to_flags(given_config, start.train_config), encoding="utf-8"
    )
    if task.chosen and task.chosen.settings and not trainer.step:
        print(task.chosen.reason)
    print(descriptions.describe_run(trainer))
    if start.path and not trainer.step:
        print(f"Starting with the weights of {start.path}")

    exported = task.exported(trainer.model.for_inference())
    logs = model_dir / "tensorboard"
    trainer.fit(
        [
            keras.callbacks.TensorBoard(str(logs), write_graph=False),
            *task.callbacks(trainer, exported),
        ],
        **limits,
    )
    weights = _learn_all(trainer, start, task, strategy, model_dir, last_pass)

    exported.model.set_weights(trainer.best_model().get_weights())
    found = task.calibrate(exported)
    if weights:
        exported.model.set_weights(weights)
    task.finish(exported, **found)
    summary = trainer.summary() | {"learned_all": bool(weights)} | found
    version = exported.save(export_dir, summary, chat_template)
    training.note_export(model_dir, _stage(trainer, bool(weights)), version)
    if not weights:  # else it would be on texts that the model has learned
        task.report(version, model_dir)
    if not trainer.is_finished:
        progress = descriptions.describe_progress(trainer)
        print(f"Stopped at {progress}; the same command resumes from there.")
    elif learns_all and not weights:
        print("The same command learns the rest of the held-out text.")
    print(f"\n{descriptions.describe_best(trainer)}")
    curves = model_dir / "curves.png"
    steps_per_epoch = task.data.training.steps_per_epoch
    if trainer.history and not plots.draw_curves(
        trainer.history, steps_per_epoch, curves
    ):
        curves = "not drawn, matplotlib is missing: pip install matplotlib"
    if trainer.history:
        print(f"Curves: {curves}")
    print(f"Exported {version}. Next:")
    for command in (
        *task.next_steps(version),
        f"{terminal.tool('tensorboard')} --logdir={shlex.quote(str(logs))}",
    ):
        print(f"  {command}")
    if warning := version_changes.warning(version):
        print(f"warning: {warning}", file=sys.stderr)


def _learn_all(trainer, start, task, strategy, model_dir, minutes):
    """Trains on with the held-out text too, for `--learn_all`.

    Args:
        trainer: the `Trainer` of the run, at its end.
        start, task, strategy, model_dir: those of the run.
        minutes: time limit, where the time ends the run.

    Returns:
        The weights; None if there is nothing to learn, or not yet.
    """
    from stacked_rnn import training

    config, ended = start.train_config, time.monotonic()
    if not (config.learn_all and trainer.is_finished and task.data.validation):
        return None
    config = dataclasses.replace(
        config,
        validation_fraction=0.0,
        early_stopping=0,
        learning_rate=_LAST_RATE * config.learning_rate,
        epochs=0 if trainer.is_timed else 1,
        max_minutes=minutes,
        init_from="",
    )
    last = training.Trainer(
        trainer.model.config,
        config,
        task.read_all(config),
        # Its own run for each step at which the first one may have ended.
        model_dir / "learn_all" / str(trainer.step),
        strategy,
        initial_weights=trainer.best_model().get_weights(),
    )
    if last.is_chief:
        print("Learning the held-out text too:", flush=True)
    last.fit(started=ended)
    return last.weights() if last.is_finished else None


def _stage(trainer, has_learned_all):
    """What an export is made of: a step, perhaps with all text learned."""
    return f"{trainer.step}, all" if has_learned_all else trainer.step


def _how_to_continue(trainer) -> str:
    """The flag that lets a finished run continue."""
    config = trainer.config
    if trainer.has_converged and trainer.step < trainer.total_steps:
        return (
            f"It stopped {config.early_stopping} epochs after its best: a "
            "larger --early_stopping"
        )
    if not config.epochs:
        return f"--max_minutes={2 * config.max_minutes:g}"
    return f"--epochs={2 * max(config.epochs, trainer.epoch)}"


def run():
    """Console entry point."""
    flags.run(main, configs.ModelConfig, configs.TrainConfig)
