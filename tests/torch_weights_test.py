"""Weights for PyTorch: against its own layers, as a file, and back."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, models, tokenizers
from stacked_rnn.models import torch_weights
from stacked_rnn.training import warm_start
from tests.helpers import pages
from tests.helpers.processes import run
from tests.helpers.small_models import (
    ALPHABET,
    CELLS,
    build_generator,
    randomized_model,
    small_config,
)

TOKENIZER = tokenizers.build("char", ALPHABET.encode())


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="no torch to compare with")


@pytest.fixture
def safetensors():
    pytest.importorskip("safetensors", reason="no safetensors, which writes it")
    import safetensors.numpy

    return safetensors.numpy


def torch_logits(torch, config, tensors, token_ids):
    """Runs PyTorch's own layers with weights by their names."""
    kinds = {
        "gru": torch.nn.GRU, "lstm": torch.nn.LSTM, "simple_rnn": torch.nn.RNN
    }  # fmt: skip
    kind, units, width = kinds[config.cell], config.units, config.embedding_dim
    readout, to_all = config.readout_layers, config.embedding_to_all_layers
    if readout == "top" and not to_all:
        rnn = kind(width, units, config.num_layers, batch_first=True)
    else:
        above = units + width * to_all
        rnn = torch.nn.ModuleList(
            kind(above if layer else width, units, batch_first=True)
            for layer in range(config.num_layers)
        )
    read = units * (config.num_layers if readout == "concat" else 1)
    layers = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(config.vocabulary_size, width),
            "rnn": rnn,
            "head": torch.nn.Linear(read, config.vocabulary_size),
        }
    )
    layers.load_state_dict(
        {name: torch.tensor(value) for name, value in tensors.items()}
    )
    with torch.no_grad():
        x = embedded = layers["embedding"](torch.tensor(token_ids))
        if not isinstance(rnn, torch.nn.ModuleList):
            return layers["head"](rnn(x)[0]).numpy()
        outputs = []
        for layer in rnn:
            if outputs and to_all:
                x = torch.cat([x, embedded], -1)
            x, _ = layer(x)
            outputs.append(x)
        if readout == "concat":
            x = torch.cat(outputs, -1)
        elif readout == "sum":
            x = sum(outputs)
        return layers["head"](x).numpy()


WIRED = {"readout_layers": "concat", "embedding_to_all_layers": True}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 3},
        {"tie_embeddings": True},
        {"tie_embeddings": True, "embedding_dim": 6},
        WIRED,
        {"readout_layers": "sum", "num_layers": 3},
        {"embedding_to_all_layers": True, "num_layers": 3},
    ],
    ids=["three layers", "tied, projected", "tied", "wired", "sum", "to all"],
)
def test_logits_are_those_of_pytorch(cell, changes, torch, rng):
    config = small_config(cell=cell, **changes)
    model = randomized_model(config)
    token_ids = rng.integers(config.vocabulary_size, size=[3, 20])
    expected = model(tf.constant(token_ids)).numpy()
    logits = torch_logits(
        torch, config, torch_weights.state_dict(model), token_ids
    )
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_of_pytorch_give_its_logits(cell, torch, rng):
    """Weights that PyTorch has drawn, with both biases of each layer."""
    config = small_config(cell=cell)
    model = randomized_model(config)
    tensors = {
        name: rng.normal(0.0, 0.5, value.shape).astype(np.float32)
        for name, value in torch_weights.state_dict(model).items()
    }
    torch_weights.load_state_dict(model, tensors)
    token_ids = rng.integers(config.vocabulary_size, size=[3, 20])
    expected = torch_logits(torch, config, tensors, token_ids)
    logits = model(tf.constant(token_ids)).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@pytest.mark.parametrize("changes", [{}, WIRED], ids=["plain", "wired"])
@pytest.mark.parametrize("cell", CELLS)
def test_there_and_back_changes_nothing(cell, changes):
    config = small_config(cell=cell, **changes)
    model, copy = randomized_model(config), randomized_model(config, seed=1)
    torch_weights.load_state_dict(copy, torch_weights.state_dict(model))
    for weight, copied in zip(model.get_weights(), copy.get_weights()):
        np.testing.assert_array_equal(weight, copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual": True}, "--noresidual"),
        ({"cell": "lstm", "cap_input_gate": True}, "--nocap_input_gate"),
    ],
)
def test_layers_that_pytorch_does_not_have_are_refused(changes, words):
    model = models.build_language_model(small_config(**changes))
    with pytest.raises(configs.UserError, match=words) as error:
        torch_weights.state_dict(model)
    assert str(error.value).startswith("--format=pytorch: ")


@pytest.mark.parametrize("changes", [{}, WIRED], ids=["plain", "wired"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_file_holds_a_whole_model(cell, changes, safetensors, tmp_path):
    model = randomized_model(small_config(cell=cell, **changes))
    tokenizer = tokenizers.build(
        "char", ALPHABET[1:].encode(), document_separator=r"\n"
    )
    path = tmp_path / "weights.safetensors"
    path.write_bytes(torch_weights.to_bytes(model, tokenizer))
    config, read_tokenizer, tensors = torch_weights.read(path)
    assert config == small_config(
        cell=cell,
        end_of_text=True,
        embedding_stddev=config.embedding_stddev,
        **changes,
    )
    assert read_tokenizer == tokenizer
    assert tensors.keys() == torch_weights.state_dict(model).keys()
    for name, value in torch_weights.state_dict(model).items():
        np.testing.assert_array_equal(tensors[name], value)


def test_layers_one_by_one_need_to_say_how_they_are_connected(
    safetensors, tmp_path
):
    tensors = torch_weights.state_dict(randomized_model(small_config(**WIRED)))
    path = tmp_path / "a.safetensors"
    safetensors.save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()},
        path,
        WHOLE,
    )
    assert_refused(path, "its header has no config, which says how the layers")


# The commands -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("separator", "changes"),
    [("", {}), (r"\n", WIRED)],
    ids=["plain", "documents, wired"],
)
def test_export_writes_what_the_page_generates_with(
    separator, changes, torch, safetensors, tmp_path
):
    """The program of docs/runtimes.md prints the text of generate.py."""
    tokenizer = tokenizers.build(
        "char", ALPHABET[1:].encode(), document_separator=separator
    )
    generator = build_generator(
        tokenizer=tokenizer, seed=6, end_of_text=bool(separator), **changes
    )
    generator.save(tmp_path / "saved_models/letters")
    ran = run(tmp_path, "export.py", "--format=pytorch")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Wrote letters.safetensors (")
    generated = subprocess.run(
        [sys.executable, "-c", program("generate_pytorch.py"),
         "letters.safetensors", "abc", "60"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert generated.returncode == 0, generated.stderr
    expected = run(
        tmp_path, "generate.py", "--prompt=abc", "--temperature=0",
        "--max_new_tokens=60",
    )  # fmt: skip
    assert len(generated.stdout) == 64
    assert generated.stdout == expected.stdout


def test_a_run_begins_with_weights_that_the_page_has_saved(
    torch, safetensors, tmp_path, monkeypatch, rng
):
    monkeypatch.chdir(tmp_path)
    subprocess.run(
        [sys.executable, "-c", program("save_pytorch.py")], check=True
    )
    path = pathlib.Path("theirs.safetensors")
    start = warm_start.resolve_init_from(
        configs.ModelConfig(dropout=0.3, embedding_dim=32),
        configs.TrainConfig(init_from=str(path)),
        "runs/new",
        {"dropout", "embedding_dim"},
    )
    assert start.model_config.cell == "lstm"
    assert start.model_config.units == 64 and start.model_config.dropout == 0.3
    assert start.tokenizer.kind == "char"
    tensors = safetensors.load_file(path)
    token_ids = rng.integers(len(tensors["head.bias"]), size=[2, 20])
    expected = torch_logits(torch, start.model.config, tensors, token_ids)
    logits = start.model(tf.constant(token_ids)).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-6)


def program(name):
    [code] = [
        block.code
        for block in pages.blocks("docs/runtimes.md")
        if block.name == name
    ]
    return code


def test_train_goes_on_with_an_exported_file(safetensors, letters, tmp_path):
    shutil.copytree(letters, tmp_path / "saved_models/letters/1")
    (tmp_path / "new.txt").write_text("a bad cab\nfed a hag\n" * 30)
    run(tmp_path, "export.py", "--format=pytorch", "--output=a.safetensors")
    ran = run(
        tmp_path, "train.py", "--corpus=new.txt", "--init_from=a.safetensors",
        "--epochs=1", "--sequence_length=10", "--batch_size=8",
        "--nojit_compile", in_memory=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Exported saved_models/new/1" in ran.stdout


WHOLE = {
    "vocabulary": json.dumps({"tokenizer": TOKENIZER.to_dict()}),
    "format": "pt",
}
FEWER = {
    "embedding.weight": np.zeros([9, 5]),
    "head.weight": np.zeros([9, 6]),
    "head.bias": np.zeros(9),
}


@pytest.mark.parametrize(
    ("change", "header", "words"),
    [
        ({"other": [1.0]}, WHOLE, "the shapes do not tell .*other"),
        ({"head.bias": [1.0]}, WHOLE, r"do not tell .*'head.bias \[1\]'"),
        ({"rnn.weight_hh_l0": None}, WHOLE, "has no single nn.GRU"),
        ({"rnn.weight_hh_l0": np.zeros([7, 6])}, WHOLE, r"shape \(7, 6\)"),
        ({"embedding.weight": np.zeros([9, 5])}, WHOLE, "do not tell"),
        (FEWER, WHOLE, "embedding.weight has 9 rows, the vocabulary 11 tokens"),
        ({}, None, "its header has no vocabulary"),
        ({}, {"vocabulary": "{}"}, "its header has no tokenizer"),
        ({}, {"vocabulary": "{"}, "its header has no tokenizer"),
    ],
)
def test_tensors_that_are_no_model_are_refused(
    change, header, words, safetensors, tmp_path
):
    model = models.build_language_model(small_config())
    tensors = torch_weights.state_dict(model) | {
        name: np.float32(value)
        for name, value in change.items()
        if value is not None
    }
    for name, value in change.items():
        if value is None:
            del tensors[name]
    path = tmp_path / "a.safetensors"
    safetensors.save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()},
        path,
        header,
    )
    assert_refused(path, words)


def assert_refused(path, words):
    with pytest.raises(configs.UserError, match=words) as error:
        warm_start.resolve_init_from(
            configs.ModelConfig(),
            configs.TrainConfig(init_from=str(path)),
            "runs/new",
        )
    assert str(error.value).startswith(f"--init_from={path}: ")
    assert "\n" not in str(error.value)


def test_files_of_other_kinds_are_refused(safetensors, tmp_path):
    path = tmp_path / "a.safetensors"
    assert_refused(path, "cannot be read: No such file")
    path.write_bytes(b"no weights at all")
    assert_refused(path, "not weights that NumPy can read")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert_refused(
        tmp_path / "a.safetensors",
        r": safetensors is missing: pip install --editable '\.\[pytorch\]'$",
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights=int8"], "--weights=int8: --format=pytorch writes float32"),
        (["--text=a.txt"], "--text=a.txt: no effect with --format=pytorch"),
        (["--output=a.pt"], "the name must end in .safetensors"),
        (["--output=a.safetensors"], "--output=a.safetensors: cannot write it"),
    ],
)
def test_bad_flags_are_one_line(flags, words, safetensors, letters, tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    ran = run(
        tmp_path, "export.py", f"--saved_model={letters}", "--format=pytorch",
        *flags,
    )  # fmt: skip
    assert ran.returncode == 2 and ran.stdout == ""
    assert words in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
