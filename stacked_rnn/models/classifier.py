"""The classifier: a whole text in, a logit for each class out."""

import dataclasses

import keras

from stacked_rnn.configs import ModelConfig, UserError
from stacked_rnn.models import stacks


def build_classifier(
    config: ModelConfig,
    num_classes: int,
    multi_label: bool = False,
    use_cudnn: bool = False,
) -> "Classifier":
    """A stack of recurrent layers that tells of which class a text is.

    Args:
        config: the architecture; `vocabulary_size` must be given.
        num_classes: how many there are.
        multi_label: whether a text may be of several classes, or of none.
        use_cudnn: whether the layers are cuDNN's: in training on a GPU.

    Raises:
        UserError: see `check_classifier`.
    """
    check_classifier(config, num_classes, multi_label)
    return Classifier(config, num_classes, multi_label, use_cudnn)


def check_classifier(config, num_classes, multi_label) -> None:
    """Raises a `UserError` for what no classifier can be."""
    stacks.check_vocabulary_size(config)
    if config.tie_embeddings:
        raise UserError(
            "--tie_embeddings: a classifier predicts no tokens; only "
            "--task=language_model takes it"
        )
    if num_classes < 2 - multi_label:
        raise UserError(f"a classifier of {num_classes} class(es) says nothing")


@keras.saving.register_keras_serializable("stacked_rnn")
class Classifier(keras.Model):
    """{token_ids, mask} -> logits [batch, outputs].

    token_ids: int32 [batch, time]; mask: bool [batch, time], False where a text
    is padded on the right. The mask is handed to every layer: how far a text is
    padded changes nothing, nor what is in the padding.

    Two classes, of which a text has one, have one output, the log odds of the
    second; otherwise each class has its own. See `scores`.
    """

    def __init__(
        self,
        config,
        num_classes,
        multi_label=False,
        use_cudnn=False,
        **kwargs,
    ):
        # Layers
        self.embedding = keras.layers.Embedding(
            config.vocabulary_size,
            config.embedding_dim,
            embeddings_initializer=keras.initializers.RandomNormal(
                stddev=config.embedding_stddev
            ),
            name="embedding",
        )
        # The same units at all times: neighbours would give away the others.
        self.embedding_dropout = keras.layers.SpatialDropout1D(
            config.embedding_dropout, name="embedding_dropout"
        )
        self.stack = [
            _recurrent_layer(config, index, use_cudnn)
            for index in range(config.num_layers)
        ]
        self.dropouts = [
            keras.layers.Dropout(config.dropout, name=f"dropout_{index}")
            for index in range(config.num_layers)
        ]
        self.residuals = [
            keras.layers.Add(name=f"residual_{index}")
            for index in range(_num_residuals(config))
        ]
        self.residual_projection = None
        width = config.units * (1 + config.bidirectional)
        if self.residuals and config.embedding_dim != width:
            self.residual_projection = keras.layers.Dense(
                width, use_bias=False, name="residual_projection"
            )
        is_binary = num_classes == 2 and not multi_label
        self.readout = keras.layers.Dense(
            1 if is_binary else num_classes, name="readout"
        )

        # Functional graph
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        mask = keras.Input((None,), dtype="bool", name="mask")
        x = self.embedding(token_ids)
        x = self.embedding_dropout(x)
        for index, layer in enumerate(self.stack):
            below = x
            x = layer(x, mask=mask)
            if index < len(self.residuals):
                if index == 0 and self.residual_projection is not None:
                    below = self.residual_projection(below)
                x = self.residuals[index]([x, below])
            if index + 1 == config.num_layers:
                x = _pooled(x, mask, config.pooling)
            x = self.dropouts[index](x)
        logits = self.readout(x)
        super().__init__(
            inputs={"token_ids": token_ids, "mask": mask},
            outputs=logits,
            **kwargs,
        )

        # Config
        self.config = config
        self.num_classes = num_classes
        self.multi_label = multi_label

    @property
    def recurrent_layers(self) -> list[keras.layers.RNN]:
        """Those that the stack is made of, two for a bidirectional one."""
        return [one for layer in self.stack for one in stacks.directions(layer)]

    def load_backbone_from(self, language_model) -> None:
        """Copies the embedding and the layers of a language model.

        Of the layers, those that read forwards and that fit: above a
        bidirectional layer, layers have wider inputs.
        """
        self.embedding.set_weights(language_model.embedding.get_weights()[:1])
        directions = 1 + self.config.bidirectional
        for layer, trained in zip(
            self.recurrent_layers[::directions],
            language_model.recurrent_layers,
        ):
            if layer.cell.kernel.shape == trained.cell.kernel.shape:
                layer.set_weights(trained.get_weights())

    def apply_temperature(self, temperature) -> None:
        """Divides the logits by a number, for good."""
        self.readout.set_weights(
            [weight / temperature for weight in self.readout.get_weights()]
        )

    def scores(self, logits):
        """Probabilities [batch, classes] of logits [batch, outputs].

        Where a text is of one class they sum to one; otherwise each class has
        one of its own.
        """
        logits = keras.ops.cast(logits, "float32")
        if self.multi_label:
            return keras.ops.sigmoid(logits)
        if self.num_classes == 2:
            logits = keras.ops.concatenate([-logits, logits], axis=-1)
            return keras.ops.sigmoid(logits)
        return keras.ops.softmax(logits)

    def for_inference(self) -> "Classifier":
        """A copy that runs anywhere: without dropout, and without cuDNN."""
        config = dataclasses.replace(
            self.config,
            dropout=0.0,
            recurrent_dropout=0.0,
            embedding_dropout=0.0,
        )
        copy = Classifier(config, self.num_classes, self.multi_label)
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self):
        return {
            "config": self.config.to_dict(),
            "num_classes": self.num_classes,
            "several_labels": self.multi_label,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(
            ModelConfig.from_dict(config.pop("config")),
            multi_label=config.pop("several_labels"),  # the name in files
            **config,
        )


def _recurrent_layer(config, index, use_cudnn):
    is_top = index + 1 == config.num_layers
    layer = stacks.recurrent_layer(
        config,
        f"rnn_{index}",
        use_cudnn,
        return_sequences=not is_top or config.pooling != "last",
    )
    if not config.bidirectional:
        return layer
    return keras.layers.Bidirectional(layer, name=f"bidirectional_{index}")


def _num_residuals(config) -> int:
    """Layers with an output at all times, to which the input is added."""
    if not config.residual:
        return 0
    return config.num_layers - (config.pooling == "last")


def _pooled(x, mask, pooling):
    """[batch, time, units] -> [batch, units] over the times that count."""
    if pooling == "last":
        return x
    counts = keras.ops.cast(mask, x.dtype)[..., None]
    mean = keras.ops.sum(x * counts, axis=1) / keras.ops.maximum(
        keras.ops.sum(counts, axis=1), 1.0
    )
    if pooling == "mean":
        return mean
    # Of a text without tokens the maximum is that of nothing: zero.
    lowest = keras.ops.where(mask[..., None], x, float("-inf"))
    highest = keras.ops.max(lowest, axis=1)
    highest = keras.ops.where(
        keras.ops.any(mask, axis=1)[:, None], highest, 0.0
    )
    if pooling == "max":
        return highest
    return keras.ops.concatenate([mean, highest], axis=-1)
