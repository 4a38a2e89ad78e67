"""The seq2seq model: an encoder, and a decoder with attention."""

import keras
import tensorflow as tf

from stacked_rnn.configs import ModelConfig
from stacked_rnn.models import stacks


def build_seq2seq(config: ModelConfig, use_cudnn: bool = False) -> "Seq2Seq":
    """Builds an encoder that reads a text and a decoder that writes another.

    Args:
        config: the architecture; `vocabulary_size` must be set. The encoder has
            `num_layers` layers and the decoder `decoder_layers`; 0: as many as
            the encoder.
        use_cudnn: whether cuDNN runs the recurrent layers, which works on a
            GPU only: for training.

    Returns:
        A `Seq2Seq`.

    Raises:
        UserError: the configuration is invalid, see `stacks.check_config`.
    """
    stacks.check_config(config)
    return Seq2Seq(config, use_cudnn)


@keras.saving.register_keras_serializable("stacked_rnn")
class Seq2Seq(stacks.Model):
    """{source_ids, source_mask, target_ids} -> {logits, attention}.

    source_ids   int32 [batch, source time]
    source_mask  bool [batch, source time], False where a source is padded on
                 the right; padding does not change the results
    target_ids   int32 [batch, target time]; target_ids[:, t] is the token
                 before the one to predict (teacher forcing)
    logits       [batch, target time, vocabulary]
    attention    [batch, target time, source time], the weight of each source
                 token at each target token

    The attention is global, with the score "general" (Luong et al. 2015,
    section 3.1). There is no input feeding (section 3.3), so in training each
    decoder layer runs over all time steps at once, and the attention of all
    steps is one matmul. Dense layers map the encoder's final state to the
    decoder's initial states (D2L section 10.7).

    In inference, a source is encoded once, then each step decodes one token:

        encode(source_ids, source_mask) -> memory, states
        decode_step(token_ids, states, memory) -> logits, states

    `memory` is a pair: values [batch, source time, width], and source_mask.
    """

    def __init__(self, config: ModelConfig, use_cudnn=False, **kwargs):
        # Layers
        decoder_layers = config.decoder_layers or config.num_layers
        self.embedding = stacks.embedding(config)
        self.encoders = [
            _encoder(config, index, use_cudnn)
            for index in range(config.num_layers)
        ]
        self.decoders = [
            _decoder(config, index, use_cudnn)
            for index in range(decoder_layers)
        ]
        self.encoder_dropouts = [
            stacks.dropout(config, config.dropout, f"encoder_dropout_{index}")
            for index in range(config.num_layers - 1)
        ]
        self.decoder_dropouts = [
            stacks.dropout(config, config.dropout, f"decoder_dropout_{index}")
            for index in range(decoder_layers - 1)
        ]
        self.bridges = [
            [
                keras.layers.Dense(
                    config.units,
                    activation="tanh",
                    name=f"bridge_{index}_{part}",
                )
                for part in stacks.PARTS[config.cell]
            ]
            for index in range(decoder_layers)
        ]
        self.query = keras.layers.Dense(
            config.units * (1 + config.bidirectional),
            use_bias=False,
            name="query",
        )
        self.attention = keras.layers.Attention(name="attention")
        self.attended = keras.layers.Dense(
            config.embedding_dim if config.tie_embeddings else config.units,
            activation="tanh",
            name="attended",
        )
        self.attended_dropout = stacks.dropout(
            config, config.dropout, "attended_dropout"
        )
        self.readout = None
        if not config.tie_embeddings:
            self.readout = keras.layers.Dense(
                config.vocabulary_size, name="readout"
            )
        self.config = config

        # Functional graph
        source_ids = keras.Input((None,), dtype="int32", name="source_ids")
        source_mask = keras.Input((None,), dtype="bool", name="source_mask")
        target_ids = keras.Input((None,), dtype="int32", name="target_ids")
        memory, states = self.encode(source_ids, source_mask)
        x, _ = self._decode(target_ids, states, stacks.run_window)
        logits, attention = self._read_out(x, memory)
        super().__init__(
            inputs={
                "source_ids": source_ids,
                "source_mask": source_mask,
                "target_ids": target_ids,
            },
            outputs={"logits": logits, "attention": attention},
            **kwargs,
        )

    def encode(self, source_ids, source_mask):
        """Runs the encoder.

        Args:
            source_ids: int32 [batch, source time].
            source_mask: bool [batch, source time], False at padding.

        Returns:
            memory: values [batch, source time, width], and source_mask.
            states: the decoder's initial states, `states[layer][part]`, each
                [batch, units].
        """
        x = self.embedding(source_ids)
        for index, layer in enumerate(self.encoders):
            below = x
            if index > 0:
                x = self.encoder_dropouts[index - 1](x)
            x, *states = layer(x, mask=source_mask)
            if self.config.residual and index > 0:
                x = x + below
        # h of each direction, without the c of an LSTM.
        final = states[:: len(stacks.PARTS[self.config.cell])]
        final = keras.ops.concatenate(final, axis=-1)
        return (x, source_mask), tuple(
            tuple(bridge(final) for bridge in bridges)
            for bridges in self.bridges
        )

    def decode_step(self, token_ids, states, memory):
        """Runs the decoder for one token, for one or more outputs per source.

        Args:
            token_ids: int32 [batch * outputs], the last token of each output;
                the outputs of a source are adjacent.
            states: `states[layer][part]`, each [batch * outputs, units].
            memory: as `encode` returns it, for the batch of sources.

        Returns:
            The logits [batch * outputs, vocabulary] and the new states.
        """
        x, states = self._decode(token_ids, states, stacks.run_cell)
        batch_size = tf.shape(memory[0])[0]
        outputs = tf.shape(x)[0] // tf.maximum(batch_size, 1)
        x = tf.reshape(x, [batch_size, outputs, x.shape[-1]])
        logits, _ = self._read_out(x, memory)
        return tf.reshape(logits, [-1, logits.shape[-1]]), states

    def _decode(self, token_ids, states, run):
        """Runs the decoder's layers: returns the outputs and new states."""
        x = self.embedding(token_ids)
        new_states = []
        for index, layer in enumerate(self.decoders):
            below = x
            if index > 0:
                x = self.decoder_dropouts[index - 1](x)
            x, layer_states = run(layer, x, states[index])
            new_states.append(tuple(layer_states))
            if self.config.residual and index > 0:
                x = x + below
        return x, tuple(new_states)

    def _read_out(self, x, memory):
        """Attends to the source and computes the logits.

        Args:
            x: the decoder's outputs, [batch, outputs or time, units].
            memory: as `encode` returns it.

        Returns:
            The logits [batch, outputs or time, vocabulary], and the attention
            [batch, outputs or time, source time].
        """
        values, mask = memory
        context, attention = self.attention(
            [self.query(x), values],
            mask=[None, mask],
            return_attention_scores=True,
        )
        x = self.attended(keras.ops.concatenate([context, x], axis=-1))
        x = self.attended_dropout(x)
        if self.readout is not None:
            return self.readout(x), attention
        return self.embedding(x, reverse=True), attention

    @property
    def recurrent_layers(self) -> list[keras.layers.RNN]:
        """The RNN layers of the encoder (both directions), then the decoder."""
        encoders = [
            rnn for layer in self.encoders for rnn in stacks.directions(layer)
        ]
        return encoders + self.decoders


def _encoder(config, index, use_cudnn):
    layer = stacks.recurrent_layer(
        config,
        f"encoder_{index}",
        use_cudnn,
        return_sequences=True,
        return_state=True,
    )
    if not config.bidirectional:
        return layer
    return keras.layers.Bidirectional(
        layer, name=f"bidirectional_encoder_{index}"
    )


def _decoder(config, index, use_cudnn) -> keras.layers.RNN:
    layer = stacks.recurrent_layer(
        config,
        f"decoder_{index}",
        use_cudnn,
        return_sequences=True,
        return_state=True,
    )
    layer.cell.name = f"cell_{index}"  # decode_step calls the cells themselves
    return layer
