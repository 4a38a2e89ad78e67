"""Searches for the flags of train.py that train the best model.

  python tune.py --corpus=mine.txt --search="units=128,256 dropout=0..0.5"
  python tune.py --minutes=60 --search="learning_rate=log:0.001..0.01"
  python tune.py --algorithm=hyperband --epochs=9 --search="dropout=0..0.5"
  python tune.py --task=classifier --corpus=labelled.tsv --search="units=32,64"

The flags of train.py hold for all trials. What is neither given nor searched is
chosen once, as train.py would for this text, and is the same in all of them. A
trial of a language model takes the time that train.py would take, but at most a
tenth of --minutes; --epochs or --max_minutes set another length. The trials, a
table, a picture and best.flags, which train.py reads, are written to
runs/tune-CORPUS. After an interruption, or with more --minutes, the same
command goes on.

Needs: pip install --editable '.[tune]'
"""

import dataclasses
import shlex
import sys

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal, text_files

# The most that a trial takes, where neither minutes nor epochs are given.
_SHARE_OF_A_TRIAL = 0.1  # of --minutes
_LEAST_MINUTES = 0.1
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
    with devices.errors_explained():
        base_config, task = trainers.choose()
    if task.data.validation is None:
        raise UserError(
            "a search needs a text to validate on: set --validation_fraction"
        )
    name = pipeline.name_of(base_config.corpus)
    directory = terminal.writable_directory(
        "tune_dir", config.tune_dir or f"runs/tune-{name}"
    )
    with training.lock_run(directory, "tune_dir"):
        trainers.use(
            search.open_search(
                directory,
                {
                    "search": " ".join(config.search),
                    "algorithm": config.algorithm,
                    **trainers.given_settings(),
                    "text": task.data.digest,
                },
                trainers.chosen,
            )
        )
        found = search.Search(
            directory,
            config,
            base_config.epochs,
            train_config.seed,
            trainers.make,
            lambda trial: print(trials.line(trial, task.info), flush=True),
        )
        if trainers.chosen:
            print(f"Chosen for all trials: {trials.in_words(trainers.chosen)}")
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
    if text_files.has_stream(train_config.corpus):
        raise UserError(
            f"--corpus={train_config.corpus}: a search reads the text again: "
            "name a file"
        )
    if config.algorithm == "hyperband" and train_config.max_minutes:
        raise UserError(
            "--max_minutes: --algorithm=hyperband counts epochs: give --epochs"
        )


class _Trainers:
    """Makes the `Trainer` of a trial.

    Args:
        config: a `TuneConfig`.
        model_config, train_config: the settings that are given.

    Attributes:
        chosen: settings that fit the text, by name, the same in all trials.
    """

    def __init__(self, config, model_config, train_config):
        from stacked_rnn import training

        self._config = config
        self._configs = (model_config, train_config)
        names = {
            field.name
            for given_config in self._configs
            for field in dataclasses.fields(given_config)
        }
        self._given = flags.given_flags() & names
        self._strategy = training.strategy_of(train_config)
        self._tasks: dict[tuple, object] = {}
        self._warned: set[tuple] = set()
        self.chosen: dict = {}

    def choose(self) -> tuple:
        """Chooses what is neither given nor searched, as train.py would.

        It suits a trial in the middle of what is searched.

        Returns:
            The `TrainConfig` and the task of that trial.
        """
        directory = self._config.tune_dir
        middle = {
            dimension.name: dimension.middle for dimension in self._config.space
        }
        given = {*self._given, *middle}
        if self._config.algorithm == "hyperband":
            given.add("epochs")
        minutes = _SHARE_OF_A_TRIAL * self._config.minutes
        task = self._read(
            dataclasses.replace(
                self._start(middle, directory),
                given=given,
                most_minutes=max(_LEAST_MINUTES, minutes),
            )
        )
        if task.chosen:
            self.chosen = dict(task.chosen.settings)
        self._tasks[self._data_key(middle)] = task
        return self._start(middle, directory).train_config, task

    def use(self, chosen) -> None:
        """Takes the settings that were chosen when the search began."""
        if chosen != self.chosen:
            self.chosen = chosen
            self._tasks.clear()

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

        All that train.py would choose to fit the text is among them.
        """
        from stacked_rnn.training import sizing

        start = self._start(values, directory)
        return configs.to_flags(
            start.model_config,
            start.train_config,
            names={"corpus", *sizing.OPEN_SETTINGS}
            | self._given
            | values.keys(),
            ignored=configs.TASKS[start.train_config.task].ignored,
        )

    def make(self, values, directory):
        """Makes the `Trainer` of a trial, in a directory.

        It reads the text once for all trials, where it can.
        """
        from stacked_rnn import training

        start, key = self._start(values, directory), self._data_key(values)
        if key not in self._tasks:
            self._tasks[key] = self._read(start)
        task = self._tasks[key]
        if key not in self._warned:
            self._warned.add(key)
            task.warn()
        model_config = task.complete(start.model_config)
        return training.Trainer(
            model_config,
            start.train_config,
            task,
            directory,
            self._strategy,
            initial_weights=task.initial_weights(start, model_config),
        )

    def _start(self, values, directory):
        """Returns the `warm_start.WarmStart` of a trial, with its settings."""
        from stacked_rnn.training import warm_start

        values = self.chosen | values
        given = self._given | values.keys()
        return warm_start.resolve_init_from(
            *configs.with_task_defaults(
                *configs.replace_settings(self._configs, values), given
            ),
            directory,
            given,
        )

    def _read(self, start):
        from stacked_rnn import tasks

        return tasks.TASKS[start.train_config.task].read(start)

    def _data_key(self, values) -> tuple:
        """Returns what trials with the same data have in common."""
        return tuple(values.get(name) for name in DATA_SETTINGS)


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
