"""Searches for the flags of train.py that train the best model.

  python tune.py --corpus=mine.txt --search="units=128,256 dropout=0..0.5"
  python tune.py --minutes=60 --search="learning_rate=log:0.001..0.01"
  python tune.py --algorithm=hyperband --epochs=9 --search="dropout=0..0.5"
  python tune.py --task=classifier --corpus=labelled.tsv --search="units=32,64"

Each trial trains as train.py does; the flags of train.py hold for all of them.
The trials, a table, a picture and best.flags, which train.py reads, are written
to runs/tune-CORPUS. After an interruption, or with more --minutes, the same
command goes on.

Needs: pip install --editable '.[tune]'
"""

import dataclasses
import shlex
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal

_NOT_IN_A_SEARCH = {
    ("model_dir", "export_dir"): "a search writes into --tune_dir",
    ("resume",): "a search resumes by itself; another --tune_dir starts over",
    ("trackers",): "a search writes its trials to trials.csv",
}
# The searchable settings that the data of a task depend on.
DATA_SETTINGS = (
    "tokenizer", "vocabulary_size", "sequence_length", "batch_size",
    "carry_state", "class_weights", "early_stopping", "half_windows",
)  # fmt: skip


def main(config, model_config, train_config):
    """Searches, and reports what was found."""
    import keras

    from stacked_rnn import pipeline, training
    from stacked_rnn.reports import trials
    from stacked_rnn.utils import devices

    _check(config, train_config)
    try:
        from stacked_rnn.training import search
    except ModuleNotFoundError as error:
        if error.name != "keras_tuner":
            raise
        raise UserError(
            "keras-tuner is missing: pip install --editable '.[tune]'"
        ) from error

    keras.config.set_floatx("float32")  # whatever keras.json says
    sys.stdout = terminal.SurvivingOutput(sys.stdout)
    trainers = _Trainers(config, model_config, train_config)
    first = {dimension.name: dimension.first for dimension in config.space}
    directory = config.tune_dir
    with devices.errors_explained():
        _, base_config, task = trainers.read(first, directory)
    if task.data.validation is None:
        raise UserError(
            "a search needs a text to validate on: set --validation_fraction"
        )
    name = pipeline.name_of(base_config.corpus)
    directory = terminal.writable_directory(
        "tune_dir", directory or f"runs/tune-{name}"
    )
    with training.lock_run(directory, "tune_dir"):
        search.open_search(
            directory,
            {
                "search": " ".join(config.search),
                "algorithm": config.algorithm,
                **trainers.given_settings(),
                "text": task.data.digest,
            },
        )
        found = search.Search(
            directory,
            config,
            base_config.epochs,
            train_config.seed,
            trainers.make,
            lambda trial: print(trials.line(trial, task.info), flush=True),
        )
        print(
            f"Going on after {len(found.trials)} trial(s)"
            if found.trials
            else f"Searching for {config.minutes:g} minutes, a line per trial",
            flush=True,
        )
        print(found.run())
        _report(found.trials, config, trainers, task.info, directory)


def _check(config, train_config) -> None:
    """Raises a `UserError` where flags contradict the search."""
    if not config.search:
        raise UserError(
            "--search is missing: name flags of train.py and their values, as "
            'in --search="units=128,256 dropout=0..0.5"'
        )
    for names, why in _NOT_IN_A_SEARCH.items():
        flags.refuse_given(names, why)
    searched = {dimension.name for dimension in config.space}
    flags.refuse_given(searched, "--search varies it: give it there only")
    task = train_config.task
    for name in sorted(searched & set(configs.TASKS[task].ignored)):
        raise UserError(f"--search: {name} has no effect with --task={task}")
    if train_config.strategy == "multi_worker":
        raise UserError("--strategy=multi_worker: a search uses one machine")
    if train_config.corpus == "-":
        raise UserError(
            "--corpus=-: a search reads the text again: name a file"
        )
    if config.algorithm == "hyperband" and train_config.max_minutes:
        raise UserError(
            "--max_minutes: --algorithm=hyperband counts epochs: give --epochs"
        )


class _Trainers:
    """Makes the `Trainer` of a trial, as train.py does.

    Args:
        config: a `TuneConfig`.
        model_config, train_config: the settings that are given.
    """

    def __init__(self, config, model_config, train_config):
        from stacked_rnn import training

        self._configs = (model_config, train_config)
        self._names = {
            field.name
            for given_config in self._configs
            for field in dataclasses.fields(given_config)
        }
        self._given = flags.given_flags() & self._names
        self._strategy = training.make_strategy(train_config.strategy)
        self._tasks: dict[tuple, object] = {}

    def with_values(self, values):
        """Returns the two configurations of a trial."""
        return configs.with_task_defaults(
            *configs.replace_settings(self._configs, values),
            self._given | values.keys(),
        )

    def given_settings(self) -> dict:
        """Returns the flags of train.py that the user has given."""
        return {
            name: getattr(config, name)
            for config in self._configs
            for name in sorted(self._given)
            if hasattr(config, name)
        }

    def to_flags(self, values, directory) -> str:
        """Writes the flags of train.py that repeat a trial.

        Those that train.py would choose to fit the text are among them: a trial
        has their defaults.
        """
        from stacked_rnn.training import sizing

        start, *_ = self.read(values, directory)
        return configs.to_flags(
            start.model_config,
            start.train_config,
            names={"corpus", *sizing.OPEN_SETTINGS}
            | self._given
            | values.keys(),
        )

    def read(self, values, directory):
        """Reads the text for the values of a trial, once where it can.

        Of the settings that fit a text, a trial has the separator of documents
        alone: the lines of a list are documents.

        Returns:
            The `warm_start.WarmStart`, its `TrainConfig`, and the task.
        """
        from stacked_rnn import tasks
        from stacked_rnn.training import sizing, warm_start

        model_config, train_config = self.with_values(values)
        start = warm_start.resolve_init_from(
            model_config, train_config, directory, self._given | values.keys()
        )
        key = tuple(values.get(name) for name in DATA_SETTINGS)
        if key not in self._tasks:
            given = self._names - ({"document_separator"} - self._given)
            task = tasks.TASKS[train_config.task].read(
                dataclasses.replace(start, given=given)
            )
            task.warn()
            if task.chosen and task.chosen.settings and not self._tasks:
                print(sizing.LINES_ARE_TEXTS)
            self._tasks[key] = task
        task = self._tasks[key]
        if task.chosen:
            start = start.with_settings(task.chosen.settings)
        return start, start.train_config, task

    def make(self, values, directory):
        """Makes the `Trainer` of a trial, in a directory."""
        from stacked_rnn import training

        start, train_config, task = self.read(values, directory)
        model_config = task.complete(start.model_config)
        return training.Trainer(
            model_config,
            train_config,
            task,
            directory,
            self._strategy,
            initial_weights=task.initial_weights(start, model_config),
        )


def _report(ended, config, trainers, info, directory) -> None:
    """Writes and prints what a search has found."""
    from stacked_rnn.reports import plots, trials

    if not ended:
        raise UserError(
            "no trial has ended: give more --minutes, or fewer --epochs"
        )
    table = directory / "trials.csv"
    trials.write(ended, info, table)
    best = ended[0]
    if best.error:
        raise UserError(f"all {len(ended)} trial(s) have failed: see {table}")
    print(f"\n{trials.table(ended, info)}\n\nAll trials: {table}")
    picture = directory / "trials.png"
    logarithmic = {
        dimension.name for dimension in config.space if dimension.is_log
    }
    if not plots.draw_trials(ended, info, logarithmic, picture):
        picture = "not drawn, matplotlib is missing: pip install matplotlib"
    print(f"Picture: {picture}")
    recipe = directory / "best.flags"
    flag = f"--flagfile={shlex.quote(str(recipe))}"
    quality = info.quality_format.format(best.quality)
    searched = "\n#   ".join(" ".join(config.search).split())
    recipe.write_text(
        f"# {quality}: the best of {len(ended)} trial(s) of tune.py, among\n"
        f"#   {searched}\n# To train and export it:\n"
        f"#   python train.py {flag}\n"
        + trainers.to_flags(best.values, directory),
        encoding="utf-8",
    )
    print(f"Best flags: {recipe}, {quality}. Next:")
    print(f"  {terminal.script('train')} {flag}")


def run():
    """Console entry point."""
    flags.run(
        main, configs.TuneConfig, configs.ModelConfig, configs.TrainConfig
    )
