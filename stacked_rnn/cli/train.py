"""Trains a recurrent model on your text and exports it.

  python train.py                                  a text that Python ships
  python train.py --corpus=mine.txt --epochs=20    your own text
  python train.py --corpus=mine.txt --max_minutes=10
  python train.py --flagfile=recipes/timemachine.flags
  python train.py --corpus=mine.txt --init_from=saved_models/pydoc
  python train.py --task=classifier --corpus=labelled.tsv
  python train.py --task=seq2seq --corpus=pairs.tsv

Writes the run to runs/CORPUS (checkpoints, TensorBoard, history.csv) and the
model to saved_models/CORPUS/1, 2, 3 ... After an interruption, the same command
resumes the run. Then: python generate.py --prompt="The "
"""

import contextlib
import dataclasses
import pathlib
import shlex
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.utils import terminal, text_files

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

    name = name_of(train_config.corpus)
    model_dir = train_config.model_dir or f"runs/{name}"
    export_dir = train_config.export_dir or f"saved_models/{name}"
    start = warm_start.resolve_init_from(
        model_config, train_config, model_dir, flags.given_flags()
    )
    task = tasks.TASKS[train_config.task].read(start)
    model_config = task.complete(start.model_config)
    terminal.writable_directory("export_dir", export_dir)
    model_dir = terminal.writable_directory("model_dir", model_dir)
    with contextlib.ExitStack() as stack:
        if training.Workers(strategy).is_chief:
            stack.enter_context(training.lock_run(model_dir))
        _train(start, task, model_config, strategy, model_dir, export_dir)


def name_of(corpus) -> str:
    """The name of a run: its corpus' first file, without endings."""
    path = pathlib.PurePath(next(text_files.parts(corpus)))
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return path.name.strip("-*?[]. ") or "corpus"


def _train(start, task, model_config, strategy, model_dir, export_dir):
    import keras

    from stacked_rnn import training, version_changes
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
    if not trainer.is_chief:
        trainer.fit()
        return
    version = training.find_export(model_dir, trainer.step, export_dir)
    if trainer.is_finished and version:
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
    print(descriptions.describe_run(trainer))
    if start.path and not trainer.step:
        print(f"Starting with the weights of {start.path}")

    exported = task.exported(trainer.model.for_inference())
    logs = model_dir / "tensorboard"
    trainer.fit(
        [
            keras.callbacks.TensorBoard(str(logs), write_graph=False),
            *task.callbacks(trainer, exported),
        ]
    )

    exported.model.set_weights(trainer.best_model().get_weights())
    task.finish(exported)
    version = exported.save(export_dir, trainer.summary())
    training.note_export(model_dir, trainer.step, version)
    task.report(version, model_dir)
    if not trainer.is_finished:
        progress = descriptions.describe_progress(trainer)
        print(f"Stopped at {progress}; the same command resumes from there.")
    print(f"\n{descriptions.describe_best(trainer)}")
    curves = model_dir / "curves.png"
    if trainer.history and not plots.draw_curves(trainer.history, curves):
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
    return f"--epochs={2 * max(config.epochs, len(trainer.history))}"


def run():
    """Console entry point."""
    flags.run(main, configs.ModelConfig, configs.TrainConfig)
