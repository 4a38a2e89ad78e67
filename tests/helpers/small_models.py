"""Small models with random weights, and the equations of a language model."""

import functools

import numpy as np
import tensorflow as tf

from stacked_rnn import configs, export, models, reference, tokenizers, training

CELLS = ("simple_rnn", "gru", "lstm")
ALPHABET = "\n abcdefgh"  # with the unknown character: eleven tokens
WORDS = "One word, two words. Caf\u00e9\n"
# Every regularizer of a language model.
REGULARIZED = {
    "dropout": 0.2,
    "recurrent_dropout": 0.1,
    "weight_dropout": 0.3,
    "embedding_dropout": 0.1,
    "token_dropout": 0.1,
    "output_dropout": 0.2,
    "label_smoothing": 0.1,
    "activation_penalty": 0.01,
    "temporal_penalty": 0.02,
}


@functools.cache
def mirrored() -> tf.distribute.Strategy:
    """A strategy over both logical CPUs.

    All tests share one: TensorFlow may confuse the collectives of two in the
    same process.
    """
    return training.make_strategy("mirrored")


def small_config(**changes) -> configs.ModelConfig:
    """Two narrow layers over eleven tokens."""
    values = {
        "units": 6,
        "embedding_dim": 5,
        "vocabulary_size": 11,
        "num_layers": 2,
    }
    return configs.ModelConfig(**values | changes)


def randomize(model, seed=0):
    """Draws all weights of a model, biases included; returns the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.normal(0.0, 0.5, weight.shape))
    return model


def randomized_model(config, seed=0) -> models.LanguageModel:
    """A language model whose weights, biases included, are all random."""
    return randomize(models.build_language_model(config), seed)


def build_generator(
    cell="gru", tokenizer=None, seed=0, **changes
) -> export.TextGenerator:
    """A language model of the letters a to h, ready to be exported."""
    tokenizer = tokenizer or tokenizers.build("char", ALPHABET.encode())
    config = small_config(
        cell=cell, vocabulary_size=tokenizer.vocabulary_size(), **changes
    )
    return export.TextGenerator(
        randomized_model(config, seed),
        tokenizer,
        configs.SamplingConfig(max_new_tokens=7),
    )


def _wired_otherwise(config, embedded, states, layers):
    """Runs a stack whose layers or readout see more than the layer below."""
    x, outputs, new_states = embedded, [], []
    for index, (layer_states, weights) in enumerate(zip(states, layers)):
        if index and config.embedding_to_all_layers:
            x = np.concatenate([x, embedded], axis=-1)
        if config.cap_input_gate:
            weights = (*weights, True)
        x, final = reference.recurrent_layer(
            config.cell, x, layer_states, weights
        )
        outputs.append(x)
        new_states.append(final)
    if config.readout_layers == "sum":
        x = sum(outputs)
    elif config.readout_layers == "concat":
        x = np.concatenate(outputs, axis=-1)
    return x, tuple(new_states)


def reference_logits(model, token_ids, states, weights=None):
    """Computes a language model in NumPy from its weights, taken by name.

    Returns:
        The logits and the last states.
    """
    config = model.config
    states = tf.nest.map_structure(np.asarray, states)
    if weights is None:
        weights = {w.path: w.numpy().astype("float64") for w in model.weights}
    layers = [
        tuple(
            weights[f"rnn_{layer}/cell_{layer}/{name}"]
            for name in ("kernel", "recurrent_kernel", "bias")
        )
        for layer in range(config.num_layers)
    ]
    projections = None
    if config.residual:
        projections = [weights.get("residual_projection/kernel")]
        projections += [None] * (config.num_layers - 1)
    embeddings = weights["embedding/embeddings"]
    embedded = embeddings[token_ids]
    if config.readout_layers == "top" and not (
        config.embedding_to_all_layers or config.cap_input_gate
    ):
        x, states = reference.deep_rnn(
            config.cell, embedded, states, layers, projections=projections
        )
    else:
        x, states = _wired_otherwise(config, embedded, states, layers)
    if not config.tie_embeddings:
        return x @ weights["readout/kernel"] + weights["readout/bias"], states
    if "readout_projection/kernel" in weights:
        x = x @ weights["readout_projection/kernel"]
    return x @ embeddings.T, states
