"""From settings to an exported model, for train.py and `stacked_rnn.train`.

A run reads the text, completes the settings, trains, and exports its best
model.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shlex
import sys
import time

import keras
import tensorflow as tf

from stacked_rnn import (
    chat_templates,
    configs,
    saved_models,
    tasks,
    training,
    version_changes,
)
from stacked_rnn.reports import plots
from stacked_rnn.training import descriptions, runs, warm_start
from stacked_rnn.utils import devices, terminal, text_files

# Seconds that are kept for what follows the last validation: more on a slow
# machine, whose start is slow. With a long text, a start is slow anywhere.
_LEAST_RESERVE, _MOST_OF_A_START, _AFTER_IT = 6.0, 15.0, 3.0
_LAST_PASS = 0.1  # share of the time limit that --learn_all takes
_LAST_RATE = 0.2  # of the learning rate
_FEW_STEPS = 50  # in which a model learns hardly anything
_ENDINGS = (".gz", ".txt", ".text", ".md", ".tsv", ".csv", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run has led to.

    Attributes:
        version: directory of the exported model.
        is_new: whether the run has exported it; otherwise, nothing was left to
            do.
        next_steps: commands to try with the model.
    """

    version: pathlib.Path
    is_new: bool = False
    next_steps: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run that can begin or resume: its settings, data and directories."""

    start: warm_start.WarmStart
    task: tasks.Task
    strategy: tf.distribute.Strategy
    model_dir: pathlib.Path
    export_dir: str
    chat_template: str | None

    @property
    def config(self) -> configs.TrainConfig:
        return self.start.train_config


def train(
    model_config, train_config, given, *, started, callbacks=()
) -> Outcome | None:
    """Trains and exports; with several processes, only the chief writes.

    Args:
        model_config, train_config: the settings.
        given: names of the settings that the user has set. Others may be
            chosen to fit the text.
        started: when the command began, by `time.monotonic`: `max_minutes`
            counts from there; of several processes, from when all are there.
        callbacks: Keras callbacks.

    Returns:
        The `Outcome`, or None in a process that is not the chief.

    Raises:
        UserError: a setting or a file cannot be used.
    """
    keras.config.set_floatx("float32")  # whatever keras.json says
    # A model that this process has loaded has switched TensorFlow's graph
    # optimizer off; every run has it on, so that equal runs have equal results.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": False}
    )
    changes = training.settings_for(callbacks, train_config, given)
    train_config = dataclasses.replace(train_config, **changes)
    given |= changes.keys()
    training.check_packages(configs.tracker_names(train_config.trackers))
    model_config, train_config = configs.with_task_defaults(
        model_config, train_config, given
    )
    with training.lost_workers_explained(), devices.errors_explained():
        strategy = training.strategy_of(train_config)
        if training.Workers(strategy).count > 1:
            started = time.monotonic()
        run, model_config = _prepare(
            model_config, train_config, given, strategy
        )
        with contextlib.ExitStack() as stack:
            if training.Workers(strategy).is_chief:
                stack.enter_context(training.lock_run(run.model_dir))
            return _train(run, model_config, started, callbacks)


def name_of(corpus) -> str:
    """The name of a run: its corpus' first file, without endings."""
    path = pathlib.PurePath(next(text_files.parts(corpus)))
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return path.name.strip("-*?[]. ") or "corpus"


def _prepare(model_config, train_config, given, strategy):
    """Reads the data, and completes the settings.

    Returns:
        The `_Run`, and the `ModelConfig` with what the data determine.
    """
    chat_template = _read_template(train_config)
    name = name_of(train_config.corpus)
    model_dir = train_config.model_dir or f"runs/{name}"
    export_dir = train_config.export_dir or f"saved_models/{name}"
    start, task, model_config = read(
        model_config, train_config, model_dir, given
    )
    terminal.writable_directory("export_dir", export_dir)
    model_dir = terminal.writable_directory("model_dir", model_dir)
    run = _Run(start, task, strategy, model_dir, export_dir, chat_template)
    return run, model_config


def read(model_config, train_config, model_dir, given) -> tuple:
    """Reads the data, and the trained model that the run starts with, if any.

    Returns:
        The `WarmStart` with the settings that fit the data, the task, and the
        `ModelConfig` with what the data determine.
    """
    past = None
    if train_config.resume is not False:
        past = training.past_record(model_dir)
    resolve = functools.partial(
        warm_start.resolve_init_from,
        model_config, train_config, model_dir, given,
    )  # fmt: skip

    def complete(start, source=None):
        start = dataclasses.replace(
            start, given=given, past=past, source=source
        )
        task = tasks.TASKS[train_config.task].read(start)
        if task.chosen:
            start = start.with_settings(task.chosen.settings)
        return start, task, task.complete(start.model_config)

    start, task, completed = complete(resolve())
    if start.is_resumed and runs.differences(
        model_dir,
        completed,
        task.data.tokenizer,
        start.train_config,
        task.data.digest,
        task.record(),
    ):
        return complete(resolve(may_resume=False), task.source)
    return start, task, completed


def _read_template(train_config) -> str | None:
    """Reads the file of --chat_template, if there is one."""
    path = train_config.chat_template
    if not path:
        return None
    if not configs.TASKS[train_config.task].continues_texts:
        raise configs.UserError(
            "--chat_template: only language models have chats"
        )
    content = terminal.read_file("chat_template", path)
    return chat_templates.decode(content, path)


def _train(run, model_config, started, callbacks) -> Outcome | None:
    start, task = run.start, run.task
    trainer = training.Trainer(
        model_config,
        run.config,
        task,
        run.model_dir,
        run.strategy,
        initial_weights=task.initial_weights(start, model_config),
    )
    start_seconds = time.monotonic() - started
    reserve = max(
        _LEAST_RESERVE, min(start_seconds, _MOST_OF_A_START) + _AFTER_IT
    )
    last_pass = 0.0
    if run.config.learn_all and trainer.is_timed:
        last_pass = _LAST_PASS * run.config.max_minutes
    limits = {"started": started, "reserve": reserve + 60 * last_pass}
    learns_all = run.config.learn_all and bool(task.data.validation)
    version = training.find_export(
        run.model_dir, _stage(trainer, learns_all), run.export_dir
    )
    is_done = (
        trainer.is_finished
        and version
        and saved_models.chat_template(version) == run.chat_template
    )
    # The chief decides: other machines may not see its exports.
    is_done = training.Workers(run.strategy).largest(
        float(trainer.is_chief and bool(is_done))
    )
    if not trainer.is_chief:
        if not is_done:
            trainer.fit(**limits)
            _learn_all(run, trainer, last_pass, limits)
        return None
    if is_done:
        print(
            f"Nothing is left to do: the run in {run.model_dir} ended with "
            f"step {trainer.step}, and {version} holds its best model.\n"
            f"{_how_to_continue(trainer)} continues it; --noresume starts over."
        )
        return Outcome(version)
    task.warn()
    # The settings as given, without what the tokenizer has added to them.
    given_config = dataclasses.replace(
        model_config, vocabulary_size=start.model_config.vocabulary_size
    )
    # Neither --resume nor --noresume, which are for one command.
    recorded = dataclasses.replace(run.config, resume=None)
    (run.model_dir / "config.flags").write_text(
        configs.to_flags(given_config, recorded, ignored=task.info.ignored),
        encoding="utf-8",
    )
    if task.chosen and task.chosen.settings:
        print(task.chosen.reason)
    print(descriptions.describe_run(trainer))
    if start.model and not trainer.step:
        taken = task.taken_weights(start, model_config)
        print(f"Starting with {taken} of {start.path}")

    exported = task.exported(trainer.model.for_inference())
    with training.tracking(trainer) as trackers:
        trainer.fit(
            [
                *(tracker.callback for tracker in trackers),
                *task.callbacks(trainer, exported),
                *callbacks,
            ],
            **limits,
        )
        weights = _learn_all(run, trainer, last_pass, limits)

        exported.model.set_weights(trainer.best_model().get_weights())
        found = task.calibrate(exported)
        if weights:
            exported.model.set_weights(weights)
        task.finish(exported, **found)
        summary = trainer.summary() | {"learned_all": bool(weights)} | found
        version = exported.save(run.export_dir, summary, run.chat_template)
        training.note_export(
            run.model_dir, _stage(trainer, bool(weights)), version
        )
        for tracker in trackers:
            tracker.log_model(version)
    if not weights:  # else it would be on texts that the model has learned
        task.report(version, run.model_dir)
    if not trainer.is_finished:
        progress = descriptions.describe_progress(trainer)
        print(f"Stopped at {progress}; the same command resumes from there.")
    elif learns_all and not weights:
        print("The same command learns the rest of the held-out text.")
    print(f"\n{descriptions.describe_best(trainer)}")
    if weights:
        print("From these weights on, the model learned the held-out text too.")
    _draw_curves(run, trainer)
    if trainer.is_timed and trainer.step < _FEW_STEPS:
        print(
            f"warning: {trainer.step} steps fit into --max_minutes="
            f"{run.config.max_minutes:g}, in which a model learns hardly "
            "anything: give it more minutes",
            file=sys.stderr,
        )
    if warning := version_changes.warning(version):
        print(f"warning: {warning}", file=sys.stderr)
    next_steps = task.next_steps(version)
    if "tensorboard" in configs.tracker_names(run.config.trackers):
        logs = shlex.quote(str(run.model_dir / "tensorboard"))
        next_steps.append(f"{terminal.tool('tensorboard')} --logdir={logs}")
    return Outcome(version, True, tuple(next_steps))


def _draw_curves(run, trainer) -> None:
    """Draws the curves of training, and says where they are."""
    if not trainer.history:
        return
    path = run.model_dir / "curves.png"
    steps_per_epoch = run.task.data.training.steps_per_epoch
    if plots.draw_curves(trainer.history, steps_per_epoch, path):
        print(f"Curves: {path}")
    else:
        print(
            "Curves: not drawn, matplotlib is missing: pip install matplotlib"
        )


def _learn_all(run, trainer, minutes, limits):
    """Trains on with the held-out text too, for `--learn_all`.

    Args:
        run: the `_Run`.
        trainer: its `Trainer`, at its end.
        minutes: time limit, where the time ends the run.
        limits: of the run, for `Trainer.fit`, where its epochs end it.

    Returns:
        The weights; None if there is nothing to learn, or not yet.
    """
    config = run.config
    has_rest = config.learn_all and run.task.data.validation
    if not (has_rest and trainer.is_finished) or trainer.interrupted:
        return None
    if trainer.is_timed:
        limits = {"started": time.monotonic()}
    elif config.max_minutes:  # the epochs may have used it up
        limits = limits | {"least": 0.0}
    config = dataclasses.replace(
        config,
        validation_fraction=0.0,
        early_stopping=0,
        average_patience=0,
        learning_rate=_LAST_RATE * config.learning_rate,
        learning_rate_schedule="cosine",
        epochs=0 if trainer.is_timed else 1,
        max_minutes=minutes or config.max_minutes,
        init_from="",
        resume=None,
    )
    last = training.Trainer(
        trainer.model.config,
        config,
        run.task.read_all(config),
        # Its own run for each step at which the first one may have ended.
        run.model_dir / "learn_all" / str(trainer.step),
        run.strategy,
        initial_weights=trainer.best_model().get_weights(),
    )
    if last.is_chief:
        print("Learning the held-out text too:", flush=True)
    last.fit(**limits)
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
        minutes = max(config.max_minutes, round(trainer.seconds / 60, 1))
        return f"--max_minutes={2 * minutes:g}"
    return f"--epochs={2 * max(config.epochs, trainer.epoch)}"
