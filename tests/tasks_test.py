"""What tasks suggest at the end, and reading all their data."""

import dataclasses

import pytest

from stacked_rnn import configs, tasks
from stacked_rnn.tasks import base
from stacked_rnn.training.warm_start import WarmStart
from tests.helpers import small_tasks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttle bird, and it sang of 3 ships. On the way", "and it sang"),
        ("ch ein Lied\nvon Flüssen und Bergen.", "von Flüssen und"),
        ("<unk> the <unk> cat sat on <unk> .", "cat sat on"),
        ("Anna\nBert\nCaesar\n", "Anna"),
        ("她走了。天黑了", "她走了"),
        ("0x00 +---+ \ufffd\ufffd", ""),
    ],
)
def test_a_suggested_prompt_is_whole_words(text, expected):
    assert base.some_words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good", "good"),
        ("it's\nfine ", "'it'\"'\"'s fine'"),
        ("x" * 99, "x" * 60),
    ],
)
def test_suggested_texts_are_quoted_in_one_line(text, expected):
    assert base.in_one_line(text) == expected


@pytest.mark.parametrize("task", ["language_model", "classifier"])
def test_all_data_can_be_read_with_the_same_tokens(task, tmp_path):
    config = configs.TrainConfig(
        task=task, tokenizer="char", sequence_length=16,
        corpus=str(small_tasks.write_corpus(task, tmp_path)),
    )  # fmt: skip
    part = tasks.TASKS[task].read(WarmStart(configs.ModelConfig(), config))
    config = dataclasses.replace(config, validation_fraction=0.0)
    whole = part.read_all(config)
    assert whole.data.validation is None
    assert whole.data.tokenizer == part.data.tokenizer
    assert whole.data.training.num_tokens == (
        part.data.training.num_tokens + part.data.validation.num_tokens
    )
