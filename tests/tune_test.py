"""tune.py: the syntax of its spaces, and small searches from end to end."""

import csv
import gc
import logging
import re
import signal

import pytest
import tensorflow as tf

from stacked_rnn import configs
from stacked_rnn.cli import tune
from stacked_rnn.configs import UserError
from stacked_rnn.reports import plots, trials
from stacked_rnn.training import search, sizing
from tests.helpers.processes import Script, assert_flags_are_parsed, run
from tests.helpers.small_tasks import TASKS, write_corpus
from tests.helpers.waiting import wait_until

TEXT = "The cat sat on the mat. The dog lay on the log.\n" * 40
SMALL = (
    "--corpus=cats.txt", "--embedding_dim=8", "--batch_size=8",
    "--sequence_length=20", "--num_layers=1", "--nojit_compile",
    "--cell=gru", "--optimizer=adam",
)  # fmt: skip


def space(text):
    return configs.TuneConfig(search=(text,)).space


@pytest.fixture(autouse=True)
def collections_are_short(monkeypatch):
    """Lets a search collect new garbage only, after each of its trials.

    Among the objects of all other tests, that takes two seconds.
    """
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda: collect(1))


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "cats.txt").write_text(TEXT)
    return tmp_path


def rows(directory):
    """The rows of trials.csv, dicts of strings."""
    with open(directory / "runs/tune-cats/trials.csv", newline="") as file:
        return list(csv.DictReader(file))


# The space --------------------------------------------------------------------


def test_a_space_has_lists_ranges_and_logarithmic_ranges():
    assert space(
        "units=64,128 cell=gru,lstm residual=true,false dropout=0..0.5\n"
        "num_layers=1..4 embedding_dim=16..64..16\n"
        "learning_rate=log:1e-3..0.01 batch_size=log:16..128..2 "
        "cap_input_gate=true,false"
    ) == (
        configs.Dimension("units", int, (64, 128)),
        configs.Dimension("cell", str, ("gru", "lstm")),
        configs.Dimension("residual", bool, (True, False)),
        configs.Dimension("dropout", float, low=0.0, high=0.5),
        configs.Dimension("num_layers", int, low=1, high=4),
        configs.Dimension("embedding_dim", int, low=16, high=64, step=16),
        configs.Dimension(
            "learning_rate", float, low=0.001, high=0.01, is_log=True
        ),
        configs.Dimension(
            "batch_size", int, low=16, high=128, step=2, is_log=True
        ),
        configs.Dimension("cap_input_gate", bool, (True, False)),
    )


def test_a_repeated_flag_adds_settings():
    config = configs.TuneConfig(search=("units=1,2", "dropout=0..0.5"))
    assert [dimension.name for dimension in config.space] == [
        "units", "dropout"
    ]  # fmt: skip


def test_values_have_three_digits_and_stay_in_their_range():
    (dimension,) = space("learning_rate=0.12345..0.98765")
    assert dimension.rounded(0.45678) == 0.457
    assert dimension.rounded(0.12346) == 0.12345
    assert dimension.rounded(0.98764) == 0.98765
    (dimension,) = space("residual=true,false")
    assert dimension.rounded(1) is True  # as keras-tuner has it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units", "units has no values: .*units=64,128"),
        ("units=", "units has no values"),
        ("unit=1,2", "unit: train.py has no such setting"),
        ("end_of_text=true,false", "end_of_text: train.py has no such"),
        ("corpus=a.txt,b.txt", "corpus is the same in all trials"),
        ("seed=1,2", "seed is the same in all trials"),
        ("units=64", "units=64 is a single value: give it as --units=64"),
        ("units=64,64", "units=64,64 has a value twice"),
        ("units=1,2 units=3,4", "units stands there twice"),
        ("units=big,2", "units: 'big' is not a whole number"),
        ("units=1.5..3", "units: '1.5' is not a whole number"),
        ("units=0,64", "units=0: expected 1 <= units"),
        ("units=64..4096", "units=4096: expected"),
        ("dropout=0..x", "dropout: 'x' is not a number"),
        ("dropout=0.5..0", "dropout=0.5..0: the range is empty"),
        ("residual=yes,no", "residual: 'yes' is not true or false"),
        ("cell=gru,grru", "cell='grru': expected one of gru, lstm"),
        ("cell=gru..lstm", "cell=gru..lstm: only numbers have a range"),
        ("learning_rate=log:0..1", "learning_rate=log:0..1: .* above 0"),
        ("units=1..9..0", "units=1..9..0: the step must be above 0"),
        ("units=log:1..9..1", "units=log:1..9..1: the step must be above 1"),
        ("units=1..9..2..3", "'2..3' is not a whole number"),
    ],
)
def test_bad_spaces_name_the_setting_and_the_fix(text, message):
    with pytest.raises(UserError, match=f"^--search: .*{message}"):
        space(text)


def test_the_middle_is_that_of_the_range_or_of_the_sorted_list():
    dimensions = space(
        "units=256,64,128 dropout=0..0.5 num_layers=1..4 "
        "learning_rate=log:0.001..0.1"
    )
    assert [one.middle for one in dimensions] == [128, 0.25, 2, 0.01]


def test_hyperband_chooses_the_epochs():
    with pytest.raises(UserError, match="--epochs, their maximum"):
        configs.TuneConfig(search=("epochs=1,2",), algorithm="hyperband")


@pytest.mark.parametrize("name", TASKS)
def test_data_are_read_again_for_each_setting_that_they_depend_on(
    name, tmp_path
):
    class Recorder:
        """A `TrainConfig` that notes which settings are read."""

        def __getattr__(self, setting):
            read.add(setting)
            return getattr(config, setting)

    read = {"vocabulary_size"}
    config = configs.TrainConfig(
        task=name, corpus=str(write_corpus(name, tmp_path))
    )
    TASKS[name].load(Recorder())
    assert "tokenizer" in read
    assert read & configs.SEARCHABLE <= {*tune.DATA_SETTINGS}


# What is left open ------------------------------------------------------------


def make_trainers(monkeypatch, config, model=None, **train):
    """The `_Trainers` of a search, whose settings are given."""
    model = model or {}
    monkeypatch.setattr(tune.flags, "given_flags", lambda: {*model, *train})
    monkeypatch.setattr(sizing, "matmul_rates", lambda: (1e11, 1e11))
    return tune._Trainers(
        config, configs.ModelConfig(**model), configs.TrainConfig(**train)
    )


def test_what_is_neither_given_nor_searched_is_chosen_once(
    directory, monkeypatch
):
    """It suits the middle of what is searched, here 1,024 units."""
    config = configs.TuneConfig(search=("units=64,1024",), minutes=2.0)
    corpus = str(directory / "cats.txt")
    trainers = make_trainers(
        monkeypatch, config, {"dropout": 0.3}, corpus=corpus
    )
    base_config, task = trainers.choose()
    chosen = trainers.chosen
    assert not {"units", "dropout", "corpus"} & chosen.keys()
    assert chosen["learning_rate"] == 0.003 and chosen["cell"] == "lstm"
    assert task.data.training.carries_state
    # A trial has a tenth of the time.
    assert (base_config.epochs, base_config.max_minutes) == (0, 0.2)
    flags = trainers.to_flags({"units": 64}, directory)
    for flag in (
        "units=64", "dropout=0.3", "learning_rate=0.003", "epochs=0",
        "max_minutes=0.2", "carry_state",
    ):  # fmt: skip
        assert f"--{flag}\n" in flags
    # A search that goes on has what was chosen when it began.
    trainers.use(chosen | {"learning_rate": 0.005, "batch_size": 4})
    assert "--learning_rate=0.005\n" in trainers.to_flags({}, directory)
    small = {"units": 4, "embedding_dim": 4, "num_layers": 1}
    trainer = trainers.make(small, directory / "trial")
    assert trainer.data.training.batch_size == 4


def test_hyperband_has_its_epochs(directory, monkeypatch):
    config = configs.TuneConfig(
        search=("dropout=0..0.5",), algorithm="hyperband"
    )
    trainers = make_trainers(
        monkeypatch, config, corpus=str(directory / "cats.txt")
    )
    base_config, _ = trainers.choose()
    assert (base_config.epochs, base_config.max_minutes) == (4, 0.0)
    assert not {"epochs", "max_minutes", "dropout"} & trainers.chosen.keys()


def test_short_strings_are_read_by_their_characters(tmp_path, monkeypatch):
    corpus = str(write_corpus("classifier", tmp_path))
    config = configs.TuneConfig(search=("units=8,16",))
    trainers = make_trainers(
        monkeypatch, config, task="classifier", corpus=corpus
    )
    base_config, task = trainers.choose()
    assert task.data.tokenizer.kind == "char"
    assert (base_config.tokenizer, base_config.epochs) == ("char", 12)
    flags = trainers.to_flags({"units": 8}, tmp_path)
    assert "--units=8\n" in flags and "--epochs=12\n" in flags
    assert "carry_state" not in flags  # which train.py would refuse


# The command ------------------------------------------------------------------


def test_a_search_leaves_a_table_a_picture_and_a_recipe(directory):
    """Of a list, whose lines are documents in the trials and after them."""
    names = "".join(f"{a}{b}\n" for a in TEXT[:20] for b in TEXT[20:40])
    (directory / "cats.txt").write_text(names)
    flags = (*SMALL, "--epochs=2", "--search=units=4,8")
    ran = run(directory, "tune.py", *flags)
    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch("note: .* documents are held out .*\n", ran.stderr)
    chosen = re.search("^Chosen for all trials: (.*)$", ran.stdout, re.M)[1]
    assert " carry_state=true " in chosen and "units=" not in chosen
    assert chosen.endswith(r" document_separator=\n")
    lines = re.findall(
        r"^Trial (\d)  units=(\d+)  ([\d.]+) bits/char  \d+:\d\d$",
        ran.stdout,
        re.MULTILINE,
    )
    assert [number for number, *_ in lines] == ["1", "2"]
    assert {units for _, units, _ in lines} == {"4", "8"}
    assert "No values are left to try." in ran.stdout
    table = rows(directory)
    scores = [float(row["bits_per_character"]) for row in table]
    assert scores == sorted(scores)
    assert min(float(score) for *_, score in lines) == round(scores[0], 3)
    found = directory / "runs/tune-cats"
    assert (found / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert not [*found.rglob("ckpt*")]
    recipe = found / "best.flags"
    assert recipe.read_text().startswith(
        f"# {scores[0]:.3f} bits/char: the best of 2 trial(s)"
    )
    assert "\n--corpus=cats.txt\n" in recipe.read_text()
    assert f"\n--units={table[0]['units']}\n" in recipe.read_text()
    assert "\n--carry_state\n" in recipe.read_text()
    assert "\n--document_separator=\\n\n" in recipe.read_text()
    assert_flags_are_parsed("train.py", [f"--flagfile={recipe}"])
    assert "train.py --flagfile=runs/tune-cats/best.flags\n" in ran.stdout

    # The recipe trains the same model, and the same command finds it again.
    trained = run(
        directory, "train.py", "--flagfile=runs/tune-cats/best.flags",
        in_memory=True,
    )  # fmt: skip
    assert f"{scores[0]:.3f} bits/char" in trained.stdout
    again = run(directory, "tune.py", *flags)
    assert "Going on after 2 trial(s)\n" in again.stdout
    assert "Trial" not in again.stdout
    assert rows(directory) == table

    # Other settings are another search, whose trials fail before they train.
    other = run(
        directory, "tune.py", *flags[:-1], "--search=accumulate_steps=3,5"
    )
    assert "moved the search in runs/tune-cats to runs/tune-cats.1 (" in (
        other.stdout
    )
    assert len(rows(directory)) == 2


def test_an_interrupted_search_goes_on_in_the_same_trial(directory):
    flags = (*SMALL, "--epochs=12", "--search=units=4,8", "--minutes=9")
    first = Script(directory, "tune.py", *flags)
    first.wait_for("Trial 1")
    history = directory / "runs/tune-cats/trials/trial_0001/history.csv"
    wait_until(history.exists)
    first.send_signal(signal.SIGINT)
    stopped = first.finish()
    assert stopped.returncode == 0, stopped.stderr
    assert "Interrupted; the same command goes on" in stopped.stdout
    epochs = history.read_text().splitlines()
    again = run(directory, "tune.py", *flags)
    assert "Trial 1" not in again.stdout and "Trial 2" in again.stdout
    assert history.read_text().splitlines()[: len(epochs)] == epochs
    assert len(rows(directory)) == 2


def test_the_time_limit_holds_for_all_trials_together(directory):
    flags = (*SMALL, "--epochs=100000", "--search=units=4,8", "--minutes=0.02")
    ran = run(directory, "tune.py", *flags)
    assert ran.returncode == 2
    assert "The time is over (--minutes=0.02)" in ran.stdout
    assert "no trial has ended: give more --minutes" in ran.stderr


def test_a_failed_trial_does_not_end_the_search(directory):
    ran = run(
        directory, "tune.py", *SMALL, "--epochs=1", "--units=8",
        "--search=accumulate_steps=1,3",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert re.search(
        r"Trial \d  accumulate_steps=3  failed: --batch_size=8 cannot be",
        ran.stdout,
    )
    best, failed = rows(directory)
    assert best["accumulate_steps"] == "1" and best["error"] == ""
    assert failed["bits_per_character"] == ""
    assert (
        "--accumulate_steps=1\n"
        in (directory / "runs/tune-cats/best.flags").read_text()
    )


def test_hyperband_trains_the_best_trials_longer(directory):
    ran = run(
        directory, "tune.py", *SMALL, "--epochs=3", "--units=4",
        "--algorithm=hyperband", "--search=dropout=0,0.2,0.5",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert {row["epochs"] for row in rows(directory)} == {"1", "3"}
    assert (
        "--epochs=3\n" in (directory / "runs/tune-cats/best.flags").read_text()
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--search is missing"),
        (["--search=units=1"], "--search: units=1 is a single value"),
        (["--search=units=4,8", "--units=4"], "--units: --search varies it"),
        (["--search=units=4,8", "--model_dir=x"], "--model_dir: a search"),
        (["--search=units=4,8", "--trackers=mlflow"], "--trackers: a search"),
        (["--search=units=4,8", "--resume"], "--resume: a search resumes"),
        (["--search=pooling=max,mean"], "--search: pooling has no effect"),
        (["--search=units=4,8", "--corpus=no.txt"], "--corpus=no.txt"),
        (
            ["--search=units=4,8", "--corpus=-,cats.txt"],
            "--corpus=-,cats.txt: a search reads",
        ),
        (
            ["--search=units=4,8", "--validation_fraction=0"],
            "a search needs a text to validate on",
        ),
        (
            ["--search=units=4,8", "--algorithm=hyperband", "--max_minutes=1"],
            "--max_minutes: --algorithm=hyperband counts epochs",
        ),
    ],
)
def test_bad_flags_are_one_line(directory, flags, words):
    ran = run(directory, "tune.py", "--corpus=cats.txt", *flags)
    assert ran.returncode == 2
    assert ran.stderr.startswith("tune.py: error: ")
    assert words in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert not (directory / "runs").exists()


# The search alone -------------------------------------------------------------


def searching(directory, make_trainer, report=lambda trial: None):
    config = configs.TuneConfig(search=("dropout=0..0.5",))
    return search.Search(directory, config, 4, 0, make_trainer, report)


def fails(error):
    def make_trainer(values, directory):
        raise error

    return make_trainer


def test_a_trial_in_which_the_process_died_twice_has_failed(tmp_path):
    for _ in range(2):
        with pytest.raises(SystemExit):
            searching(tmp_path, fails(SystemExit())).run()
    reported = []
    with pytest.raises(SystemExit):  # in the second trial
        searching(tmp_path, fails(SystemExit()), reported.append).run()
    (trial,) = reported
    assert trial.number == 1 and "has died in it 2 times" in trial.error


def test_an_interrupted_trial_may_begin_any_number_of_times(tmp_path):
    for _ in range(4):
        found = searching(tmp_path, fails(KeyboardInterrupt()))
        assert (
            found.run() == "Interrupted; the same command goes on from there."
        )
        assert found.trials == []


def test_a_search_is_silent_about_the_graphs_of_its_trials(tmp_path):
    shown, logger = [], tf.get_logger()
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())

    def make_trainer(values, directory):
        logger.warning("5 calls triggered tf.function retracing. Tracing is")
        logger.warning("something else")
        raise KeyboardInterrupt

    logger.addHandler(handler)
    searching(tmp_path, make_trainer).run()
    logger.warning("tf.function retracing, afterwards")
    logger.removeHandler(handler)
    assert shown == ["something else", "tf.function retracing, afterwards"]


def test_ten_failures_in_a_row_end_a_search(tmp_path, capsys):
    """Those of an earlier process, whose cause may be gone, do not count."""
    for count in (10, 20):
        found = searching(tmp_path, fails(UserError("no such cell")))
        assert found.run() == "The last 10 trials have failed."
        assert len(found.trials) == count
    assert {trial.error for trial in found.trials} == {"no such cell"}
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_is_no_failure_of_a_trial(tmp_path):
    found = searching(tmp_path, fails(configs.DiskError("no space")))
    assert found.run() == "no space"
    assert found.trials == []


def test_an_error_of_the_program_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        searching(tmp_path, fails(ZeroDivisionError())).run()


def test_a_flag_that_is_no_longer_given_begins_another_search(tmp_path, capsys):
    directory = tmp_path / "tune"
    search.open_search(directory, {"units": 8, "text": "a"}, {})
    for cell in ("gru", "lstm"):  # the first choice stays
        chosen = search.open_search(directory, {"text": "a"}, {"cell": cell})
        assert chosen == {"cell": "gru"}
    assert "tune.1 (units: 8, not None)\n" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"tune", "tune.1"}


def test_damaged_files_of_a_search_are_one_line(tmp_path):
    searching(tmp_path, fails(KeyboardInterrupt())).run()
    (tmp_path / "trials/oracle.json").write_text("{")
    with pytest.raises(UserError, match="^--tune_dir=.* are damaged"):
        searching(tmp_path, None)


# The picture and the table ----------------------------------------------------


def test_trials_of_any_kind_are_drawn(tmp_path):
    ended = [
        search.Trial(1, {"cell": "gru", "units": 8, "residual": True}, 2.0,
                     -0.9, 0.9),
        search.Trial(3, {"cell": "lstm", "units": 8, "residual": False}, 2.0,
                     -0.8, 0.8),
        search.Trial(2, {"cell": "gru", "units": 8, "residual": False}, 2.0,
                     error="out of memory"),
    ]  # fmt: skip
    info = configs.TASKS["classifier"]
    for shown in (ended, ended[:1]):
        picture = tmp_path / f"{len(shown)}.png"
        assert plots.draw_trials(shown, info, {"units"}, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert trials.table(ended, info).splitlines() == [
        "trial  cell  units  residual  accuracy  time",
        "    1   gru      8      true    0.9000  0:02",
        "    3  lstm      8     false    0.8000  0:02",
        "    2   gru      8     false    failed  0:02",
    ]
