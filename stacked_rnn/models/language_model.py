"""The language model: one set of layers, wired as four Keras graphs."""

import functools

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import layers
from stacked_rnn.configs import ModelConfig, UserError
from stacked_rnn.models import stacks


def build_language_model(
    config: ModelConfig, use_cudnn: bool = False
) -> "LanguageModel":
    """Builds a stack of recurrent layers that predicts the next token.

    The deep RNN of "Dive into Deep Learning" (D2L), section 10.3: layer l at
    time t sees layer l at t - 1 and layer l - 1 at t, and the top layer feeds
    the readout. With `embedding_to_all_layers` every layer sees the embedding,
    too; with `readout_layers` other than "top" the readout has all layers.

    Args:
        config: the architecture; `vocabulary_size` must be set.
        use_cudnn: whether cuDNN runs the recurrent layers, which works on a
            GPU only: for training.

    Returns:
        A `LanguageModel`.

    Raises:
        UserError: the configuration is invalid, see `check_language_model`.
    """
    check_language_model(config)
    return LanguageModel(config, use_cudnn)


def check_language_model(config) -> None:
    """Raises a `UserError` if the settings do not suit a language model.

    A bidirectional model would see the tokens that it has to predict.
    """
    stacks.check_config(config)
    if config.bidirectional:
        raise UserError(
            "--bidirectional: a language model must not see the future: leave "
            "it out, or choose --task=classifier or seq2seq"
        )


@keras.saving.register_keras_serializable("stacked_rnn")
class LanguageModel(stacks.Model):
    """token_ids int32 [batch, time] -> logits [batch, time, vocabulary].

    Called like this, as `fit` does, the states start at zero. Three more graphs
    share the same layers and take the states as inputs and return them:

        step         {token_ids, states} -> {logits, states, outputs}; outputs
                     [batch, time, units] is what the readout sees
        prefill      {token_ids, mask, states} -> the same; where the mask
                     [batch, time] is False, the states do not change
        decode_step  like step, for one token: token_ids [batch], logits
                     [batch, vocabulary], outputs [batch, units]

    States are nested, `states[layer][part]`, each [batch, units]; an LSTM has
    the parts h and c. Running `step` on both halves of a window, one after the
    other, gives the same as running it once on the whole.
    """

    def __init__(self, config: ModelConfig, use_cudnn=False, **kwargs):
        # Layers
        self.embedding = stacks.embedding(config)
        self.recurrent_layers = [
            _recurrent_layer(config, index, use_cudnn)
            for index in range(config.num_layers)
        ]
        self.token_dropout = None
        if config.token_dropout:
            self.token_dropout = layers.TokenDropout(
                config.token_dropout,
                config.vocabulary_size,
                name="token_dropout",
            )
        self.embedding_dropout = layers.LockedDropout(
            config.embedding_dropout, name="embedding_dropout"
        )
        self.dropouts = [
            stacks.dropout(config, config.dropout, f"dropout_{index}")
            for index in range(config.num_layers - 1)
        ]
        self.residuals = [
            keras.layers.Add(name=f"residual_{index}")
            for index in range(config.num_layers if config.residual else 0)
        ]
        self.residual_projection = None
        if config.residual and config.embedding_dim != config.units:
            self.residual_projection = keras.layers.Dense(
                config.units, use_bias=False, name="residual_projection"
            )
        self.output_dropout = stacks.dropout(
            config, config.output_dropout, "output_dropout"
        )
        self.activation_penalty = None
        if config.activation_penalty or config.temporal_penalty:
            self.activation_penalty = layers.ActivationPenalty(
                config.activation_penalty,
                config.temporal_penalty,
                name="activation_penalty",
            )
        self.readout = None
        if not config.tie_embeddings:
            self.readout = keras.layers.Dense(
                config.vocabulary_size, name="readout"
            )
        elif config.embedding_dim != _readout_width(config):
            self.readout = keras.layers.Dense(
                config.embedding_dim, use_bias=False, name="readout_projection"
            )

        # Functional graph
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        logits, *_ = _wire(self, config, token_ids, None, stacks.run_window)
        super().__init__(inputs=token_ids, outputs=logits, **kwargs)

        # Config
        self.config = config
        self._use_cudnn = use_cudnn

    def initial_states(self, batch_size):
        """Returns `states[layer][part]`, zeros [batch_size, units] each.

        Args:
            batch_size: an int, or an int32 scalar tensor.
        """
        zeros = tf.zeros((batch_size, self.config.units), self.compute_dtype)
        parts = stacks.PARTS[self.config.cell]
        return ((zeros,) * len(parts),) * self.config.num_layers

    def states_before_text(self, batch_size):
        """Returns the states before a text, like `initial_states`.

        In training, the token that ends a document comes before the next one.
        So where there is that token, they are the states after it: zeros come
        before windows, most of which begin within a document.
        """
        states = self.initial_states(1)
        if self.config.end_of_text:
            end_id = tf.constant([self.config.vocabulary_size - 1])
            new = self.decode_step({"token_ids": end_id, "states": states})
            states = new["states"]
        return tf.nest.map_structure(
            lambda state: tf.broadcast_to(
                state, (batch_size, self.config.units)
            ),
            states,
        )

    def load_weights_from(self, trained) -> None:
        """Copies the weights of a model that may have fewer tokens.

        The new tokens come after the old ones, but before the token that ends a
        document. The logits of the old tokens stay what they were. A new token
        has the mean of the embeddings, with little noise: the loss begins and
        stays lower than with an embedding of a new model. In a readout of its
        own, it has zeros, and the lowest bias of all.

        Args:
            trained: a `LanguageModel` that is equal but for its vocabulary.
        """
        size = self.config.vocabulary_size
        last = size - self.config.end_of_text
        is_old = np.ones(size, bool)
        is_old[last - (size - trained.config.vocabulary_size) : last] = False
        for weight, old in zip(self.weights, trained.weights, strict=True):
            values = old = old.numpy()
            if weight.path == "embedding/embeddings":
                values = old.mean(axis=0) + 0.1 * weight.numpy()
                values[is_old] = old
            elif weight.path == "readout/kernel":
                values = np.zeros(weight.shape, old.dtype)
                values[:, is_old] = old
            elif weight.path == "readout/bias":
                values = np.full(weight.shape, old.min())
                values[is_old] = old
            weight.assign(values)

    def some_logits(self, outputs, targets, candidates):
        """Computes the logits of some tokens, instead of all.

        Args:
            outputs: [positions, units], what the readout sees, see `step`.
            targets: int32 [positions], one token for each position.
            candidates: int32 [candidates], tokens for all positions.

        Returns:
            float32 [positions] and [positions, candidates].
        """

        def weights_and_biases(token_ids):
            if self.config.tie_embeddings:
                table = tf.convert_to_tensor(self.embedding.embeddings)
                return tf.gather(table, token_ids), 0.0
            kernel = tf.convert_to_tensor(self.readout.kernel)
            bias = tf.convert_to_tensor(self.readout.bias)
            rows = tf.transpose(tf.gather(kernel, token_ids, axis=1))
            return rows, tf.gather(bias, token_ids)

        if self.config.tie_embeddings and self.readout is not None:
            outputs = self.readout(outputs)
        rows, biases = weights_and_biases(targets)
        products = tf.cast(outputs * tf.cast(rows, outputs.dtype), tf.float32)
        target_logits = tf.reduce_sum(products, axis=-1) + biases
        rows, biases = weights_and_biases(candidates)
        products = tf.matmul(
            outputs, tf.cast(rows, outputs.dtype), transpose_b=True
        )
        return target_logits, tf.cast(products, tf.float32) + biases

    @functools.cached_property
    def step(self) -> keras.Model:
        """The model of a window of tokens, with states in and out."""
        config = self.config
        has_layers_between = config.num_layers > 1 and (
            config.dropout
            or config.embedding_to_all_layers
            or config.readout_layers != "top"
        )
        if not self._use_cudnn or has_layers_between or config.residual:
            return self._with_states((None,), stacks.run_window)
        stack = layers.CudnnStack(
            self.recurrent_layers, dtype=self.dtype_policy
        )
        return self._with_states((None,), stack)

    @functools.cached_property
    def prefill(self) -> keras.Model:
        """The model of right-padded prompts, with states in and out."""
        mask = keras.Input((None,), dtype="bool", name="mask")
        return self._with_states(
            (None,), functools.partial(stacks.run_window, mask=mask), mask=mask
        )

    @functools.cached_property
    def decode_step(self) -> keras.Model:
        """The model of a single token, with states in and out."""
        return self._with_states((), stacks.run_cell)

    def _with_states(self, shape, run, **inputs) -> keras.Model:
        token_ids = keras.Input(shape, dtype="int32", name="token_ids")
        states = tuple(
            tuple(
                keras.Input(
                    (self.config.units,),
                    dtype=self.compute_dtype,
                    name=f"state_{layer}_{part}",
                )
                for part in stacks.PARTS[self.config.cell]
            )
            for layer in range(self.config.num_layers)
        )
        logits, outputs, new_states = _wire(
            self, self.config, token_ids, states, run
        )
        return keras.Model(
            {"token_ids": token_ids, "states": states, **inputs},
            {"logits": logits, "outputs": outputs, "states": new_states},
        )


def _recurrent_layer(config, index, use_cudnn) -> keras.layers.RNN:
    layer = stacks.recurrent_layer(
        config,
        f"rnn_{index}",
        use_cudnn,
        return_sequences=True,
        return_state=True,
    )
    layer.cell.name = f"cell_{index}"  # decode_step has the cells as layers
    return layer


def _wire(model, config, token_ids, states, run):
    """Connects the layers of a language model in a new graph.

    Args:
        model: a `LanguageModel`, whose layers exist.
        config: its architecture.
        token_ids: int32 [batch, time], or [batch] for one time step.
        states: `states[layer][part]`; None: zeros.
        run: (layer, inputs, states of the layer) -> (outputs, new states), or
            a `CudnnStack`, which runs all layers in one call.

    Returns:
        The logits, what the readout sees, and the new states.
    """
    x = model.embedding(token_ids)
    if model.token_dropout is not None:
        x = model.token_dropout(x, token_ids)
    embedded = x = model.embedding_dropout(x)
    if isinstance(run, layers.CudnnStack):
        x, new_states = run(x, initial_state=states)
        return *_read_out(model, config, [x]), new_states
    if config.end_of_text:
        state_mask = token_ids != config.vocabulary_size - 1
        run = functools.partial(run, state_mask=state_mask)
    outputs, new_states = [], []
    for index, layer in enumerate(model.recurrent_layers):
        below = x
        if index > 0:
            x = model.dropouts[index - 1](x)
            if config.embedding_to_all_layers:
                x = keras.ops.concatenate([x, embedded], axis=-1)
        x, layer_states = run(layer, x, states and states[index])
        new_states.append(tuple(layer_states))
        if config.residual:
            if index == 0 and model.residual_projection is not None:
                below = model.residual_projection(below)
            x = model.residuals[index]([x, below])
        outputs.append(x)
    return *_read_out(model, config, outputs), tuple(new_states)


def _readout_width(config) -> int:
    """Number of units that the readout sees."""
    if config.readout_layers == "concat":
        return config.units * config.num_layers
    return config.units


def _read_out(model, config, outputs):
    """Computes the logits from the outputs of the layers, bottom to top.

    Returns:
        The logits, and what the readout sees.
    """
    top = x = outputs[-1]
    if len(outputs) > 1 and config.readout_layers == "sum":
        x = keras.ops.sum(keras.ops.stack(outputs), axis=0)
    elif len(outputs) > 1 and config.readout_layers == "concat":
        x = keras.ops.concatenate(outputs, axis=-1)
    x = model.output_dropout(x)
    if model.activation_penalty is not None:
        x = model.activation_penalty(x, top)
    seen = x
    if model.readout is not None:
        x = model.readout(x)
    if config.tie_embeddings:
        x = model.embedding(x, reverse=True)
    return x, seen
