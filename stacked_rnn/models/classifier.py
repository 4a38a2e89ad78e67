"""The classifier: from a whole text to a logit per class."""

import keras

from stacked_rnn import layers
from stacked_rnn.configs import ModelConfig, UserError
from stacked_rnn.models import stacks


def build_classifier(
    config: ModelConfig,
    num_classes: int,
    multi_label: bool = False,
    use_cudnn: bool = False,
) -> "Classifier":
    """Builds a stack of recurrent layers that classifies texts.

    Args:
        config: the architecture; `vocabulary_size` must be set.
        num_classes: number of classes.
        multi_label: whether a text may have several labels, or none.
        use_cudnn: whether cuDNN runs the recurrent layers, which works on a
            GPU only: for training.

    Returns:
        A `Classifier`.

    Raises:
        UserError: the configuration is invalid, see `check_classifier`.
    """
    check_classifier(config, num_classes, multi_label)
    return Classifier(config, num_classes, multi_label, use_cudnn)


def check_classifier(config, num_classes, multi_label) -> None:
    """Raises a `UserError` if the settings do not suit a classifier."""
    stacks.check_vocabulary_size(config)
    if config.tie_embeddings:
        raise UserError(
            "--tie_embeddings: a classifier predicts no tokens; leave it out, "
            "or choose --task=language_model or seq2seq"
        )
    if num_classes < 2 - multi_label:
        raise UserError(
            f"num_classes={num_classes}: a classifier needs at least "
            f"{2 - multi_label} different label(s)"
        )


def num_shared_layers(config, trained) -> int:
    """Counts the layers that a classifier can take from a language model.

    The first one reads the embedding in both. Those above it must read the same
    as in the language model: other inputs may have the same width, but not the
    same meaning.

    Args:
        config: the `ModelConfig` of the classifier.
        trained: that of the language model; layers and widths are the same.
    """
    if (
        config.bidirectional
        or trained.embedding_to_all_layers
        or config.residual != trained.residual
    ):
        return 1
    return config.num_layers


@keras.saving.register_keras_serializable("stacked_rnn")
class Classifier(stacks.Model):
    """A text classifier: {token_ids, mask} -> logits [batch, outputs].

    token_ids is int32 [batch, time]; mask is bool [batch, time], False where a
    text is padded on the right. Every recurrent layer and the pooling receive
    the mask, so neither the length of the padding nor its content matters.

    There is one output per class, except where a text has exactly one of two
    classes: then the only output is the log odds of the second class. `scores`
    turns the logits into probabilities.
    """

    def __init__(
        self, config, num_classes, multi_label=False, use_cudnn=False, **kwargs
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
        self.embedding_dropout = layers.LockedDropout(
            config.embedding_dropout, name="embedding_dropout"
        )
        self.stack = [
            _recurrent_layer(config, index, use_cudnn)
            for index in range(config.num_layers)
        ]
        self.dropouts = [
            stacks.dropout(config, config.dropout, f"dropout_{index}")
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
                x = _pool(x, mask, config.pooling)
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
        """The RNN layers from bottom to top; a bidirectional one has two."""
        return [rnn for layer in self.stack for rnn in stacks.directions(layer)]

    def load_backbone_from(self, language_model) -> None:
        """Copies the embedding and the lowest layers of a language model.

        Only the forward direction receives weights.

        Args:
            language_model: a `LanguageModel` with as many layers, of the same
                width; `num_shared_layers` of them are copied.
        """
        count = num_shared_layers(self.config, language_model.config)
        self.embedding.set_weights(language_model.embedding.get_weights()[:1])
        directions = 1 + self.config.bidirectional
        for layer, trained in zip(
            self.recurrent_layers[::directions][:count],
            language_model.recurrent_layers,
        ):
            layer.set_weights(trained.get_weights())
        if count > 1 and self.residual_projection is not None:
            self.residual_projection.set_weights(
                language_model.residual_projection.get_weights()
            )

    def apply_temperature(self, temperature) -> None:
        """Divides all future logits by `temperature`: scales the readout."""
        self.readout.set_weights(
            [weight / temperature for weight in self.readout.get_weights()]
        )

    def scores(self, logits):
        """Converts logits [batch, outputs] to probabilities [batch, classes].

        The probabilities of a text sum to one, unless it may have several
        labels: then those of the classes are independent.
        """
        logits = keras.ops.cast(logits, "float32")
        if self.multi_label:
            return keras.ops.sigmoid(logits)
        if self.num_classes == 2:
            logits = keras.ops.concatenate([-logits, logits], axis=-1)
            return keras.ops.sigmoid(logits)
        return keras.ops.softmax(logits)

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "several_labels": self.multi_label,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)  # in files, multi_label has its first name
        config["multi_label"] = config.pop("several_labels")
        return super().from_config(config)


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
    """Number of layers with a residual connection: output at each time step."""
    if not config.residual:
        return 0
    return config.num_layers - (config.pooling == "last")


def _pool(x, mask, pooling):
    """Pools [batch, time, units] to [batch, units] over the unmasked steps.

    With "last", x is the last output already, [batch, units].
    """
    if pooling == "last":
        return x
    weights = keras.ops.cast(mask, x.dtype)[..., None]
    mean = keras.ops.sum(x * weights, axis=1) / keras.ops.maximum(
        keras.ops.sum(weights, axis=1), 1.0
    )
    if pooling == "mean":
        return mean
    masked = keras.ops.where(mask[..., None], x, float("-inf"))
    maximum = keras.ops.max(masked, axis=1)
    # Zero, not minus infinity, for a text without tokens.
    maximum = keras.ops.where(
        keras.ops.any(mask, axis=1)[:, None], maximum, 0.0
    )
    if pooling == "max":
        return maximum
    return keras.ops.concatenate([mean, maximum], axis=-1)
