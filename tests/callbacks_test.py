"""Progress lines of a training."""

import types

import pytest

from stacked_rnn import metrics, tasks
from stacked_rnn.training import callbacks

SCORES = {
    "language_model": metrics.Score(5548.0, 4000, 8000.0),
    "classifier": metrics.ClassificationScore(55.48, 40, 25, 40),
    "seq2seq": metrics.Seq2SeqScore(5548.0, 4000, 30, 40),
}


def show(task="language_model", verbose=2, epochs=12, step=262, minutes=0.0):
    """Prints the second epoch, of 131 steps, up to a step of the run."""
    shown = tasks.TASKS[task](data=None)
    trainer = types.SimpleNamespace(
        task=shown, epoch=1, step=step, seconds=75.0,
        config=types.SimpleNamespace(max_minutes=minutes),
    )  # fmt: skip
    lines = callbacks.EpochLines(trainer, verbose)
    lines.set_params({"epochs": epochs, "steps": 131})
    logs = SCORES[task].logs() | {f"{shown.unit}_per_second": 30345.48}
    lines.on_epoch_begin(1)
    for batch in (0, 65, 130):
        lines._next_paint = 0.0  # as if time had passed
        lines.on_train_batch_end(batch, logs)
    lines.on_epoch_end(1, logs | SCORES[task].logs("val_"))
    lines.on_train_end()


@pytest.mark.parametrize(
    ("task", "figure"),
    [
        ("language_model", "1.001 bits/char  30,345 tokens/s"),
        ("classifier", "accuracy 0.625  30,345 texts/s"),
        ("seq2seq", "75.0% exact  30,345 tokens/s"),
    ],
)
def test_each_epoch_is_one_line(task, figure, capsys):
    show(task)
    assert capsys.readouterr().out == (
        f"Epoch 2/12  loss 1.3870  val_loss 1.3870  {figure}  0:00\n"
    )


def test_an_interrupted_epoch_is_marked(capsys):
    show(step=150)
    assert "Epoch 2/12, 19 of 131 steps  loss" in capsys.readouterr().out


def test_a_timed_run_shows_the_share_of_time(capsys):
    show(epochs=0, minutes=3.0)
    line = capsys.readouterr().out
    assert line.startswith("Epoch 2  loss ")
    assert line.endswith("tokens/s  1:15 of 3:00\n")


@pytest.mark.parametrize("columns", [80, 40])
def test_the_progress_bar_fits_and_is_erased(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    show(verbose=1)
    *bars, rest = capsys.readouterr().out.split("\r")
    assert rest.startswith("Epoch 2/12  loss") and rest.count("\n") == 1
    bars, blank = [bar for bar in bars[:-1] if bar], bars[-1]
    assert len(bars) == 3
    assert [bar.count("=") for bar in bars] == [0, 10, 20]
    assert all("\n" not in bar and len(bar) < columns for bar in bars)
    assert blank.isspace() and len(blank) == len(bars[-1])


def test_samples_contain_no_control_characters(tmp_path, capsys, monkeypatch):
    texts = []
    monkeypatch.setattr(
        callbacks.tf.summary, "text", lambda name, text: texts.append(text)
    )
    trainer = types.SimpleNamespace(
        model_dir=tmp_path, config=types.SimpleNamespace(trackers="tensorboard")
    )
    samples = callbacks.SampleTexts(
        trainer, lambda epoch: "one\ttab\n\n\x1b[2Jtwo\r\u20ac\n"
    )
    samples.on_train_begin()
    samples.on_epoch_end(0)
    samples.on_train_end()
    assert capsys.readouterr().out == (
        "  sample: one\ttab\n          \n          \\x1b[2Jtwo\\r\u20ac\n"
    )
    assert texts == ["    one\ttab\n    \n    \\x1b[2Jtwo\\r\u20ac\n    "]
