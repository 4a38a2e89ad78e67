"""A model that is ready for requests."""

import dataclasses
import functools

import tensorflow as tf

from stacked_rnn import inference, metrics
from stacked_rnn.serving import top_logprobs
from stacked_rnn.serving.model_listing import ListedModel
from stacked_rnn.serving.scheduler import Scheduler

_WINDOW = 128  # tokens that the signatures of a language model read at once
_ARRAYS = 16  # as wide as a layer that reading a token takes


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel(ListedModel):
    """A version of a model that is loaded.

    Attributes:
        metadata: the result of `tf_serving.metadata`.
        model: the result of `inference.load`.
        scheduler: the `Scheduler` that continues texts with it; None: its task
            generates no text token by token.
        preparing: requests that have not submitted their sequences yet.
    """

    metadata: bytes
    model: inference.LoadedModel
    scheduler: Scheduler | None = None
    preparing: set = dataclasses.field(default_factory=set)

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is being made, is waiting or has a slot."""
        scheduler = self.scheduler
        return not (
            self.preparing
            or (scheduler and (scheduler.num_waiting or scheduler.num_active))
        )

    @property
    def is_compiled(self) -> bool:
        """Whether XLA has finished, or has nothing to compile."""
        return not self.scheduler or self.scheduler.is_compiled.is_set()

    def close(self, seconds=None) -> None:
        """Accepts no more sequences; see `Scheduler.close`."""
        if self.scheduler:
            self.scheduler.close(seconds)

    def defaults(self, signature) -> dict:
        """The options of a signature that writes texts, where not given.

        Args:
            signature: its name.

        Returns:
            dict of input name -> tensor.
        """
        entries = self.model.description.entries
        options = entries.get("sampling") or entries.get("search")
        if not options or signature not in ("serving_default", "generate"):
            return {}
        return {
            name: tf.constant(value)
            for name, value in vars(options).items()
            if name in ("max_new_tokens", "num_beams")
        }

    def row_size(self, signature, inputs) -> int:
        """Estimates how many numbers a call holds at a time for each row.

        Args:
            signature: its name.
            inputs: dict of input name -> tensor.
        """
        inputs = self.defaults(signature) | inputs
        description, lengths = self.model.description, {}
        config = description.model_config
        for name, tensor in inputs.items():
            if tensor.dtype == tf.string and tensor.shape[0]:
                lengths[name] = int(tf.reduce_max(tf.strings.length(tensor)))
        length = 1 + max(lengths.values(), default=0)
        most = description.entries.get("max_tokens", length)
        if description.info.continues_texts:
            most = _WINDOW
        length = min(length, most)
        width = _ARRAYS * config.units
        if signature == "score":
            width += config.vocabulary_size
        elif signature == "align":
            width += 2 * (config.vocabulary_size + lengths.get("texts", 0))
        beams = int(tf.reduce_max(inputs.get("num_beams", 1)))
        return max(1, beams) * max(length * width, config.vocabulary_size)

    @functools.cached_property
    def rank(self):
        """See `top_logprobs.rank_function`."""
        return top_logprobs.rank_function(self.model)

    @functools.cached_property
    def token_names(self):
        """See `top_logprobs.token_names`."""
        return top_logprobs.token_names(self.model)

    def echo(self, token_ids, is_scored):
        """Describes a prompt for an answer that repeats it.

        Args:
            token_ids: int32 [tokens].
            is_scored: whether to compute log p.

        Returns:
            (names of the tokens, log p of each token in nats). The latter is
            None for the first token, and for all if not `is_scored`.
        """
        tokens = self.token_names[token_ids].tolist()
        log_probs = [None] * len(tokens)
        if is_scored and len(tokens) > 1:
            functions = self.model.functions
            log_probs[1:] = (
                -metrics.nats_of_text(
                    functions.score_window,
                    token_ids,
                    functions.initial_states(1),
                    progress=lambda done: None,
                )
            ).tolist()
        return tokens, log_probs


def warm_up(functions) -> None:
    """Calls each signature that takes nothing but texts: a first call is slow.

    Args:
        functions: a loaded SavedModel.
    """
    for signature in functions.signatures.values():
        inputs = signature.structured_input_signature[1]
        if all(spec.dtype == tf.string for spec in inputs.values()):
            signature(**dict.fromkeys(inputs, tf.constant([""])))
