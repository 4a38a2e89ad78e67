"""A model that is ready for requests."""

import dataclasses
import functools

import tensorflow as tf

from stacked_rnn import inference, metrics, saved_models
from stacked_rnn.serving import top_logprobs
from stacked_rnn.serving.model_listing import ListedModel
from stacked_rnn.serving.scheduler import Scheduler


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel(ListedModel):
    """A version of a model that is loaded.

    Attributes:
        description: the metadata of its directory.
        model: the result of `inference.load`.
        scheduler: the `Scheduler` that continues texts with it; None: its task
            generates no text token by token.
    """

    description: saved_models.Description
    model: inference.LoadedModel
    scheduler: Scheduler | None

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is waiting or has a slot."""
        scheduler = self.scheduler
        return not (
            scheduler and (scheduler.num_waiting or scheduler.num_active)
        )

    @property
    def is_compiled(self) -> bool:
        """Whether XLA has finished, or has nothing to compile."""
        return not self.scheduler or self.scheduler.is_compiled.is_set()

    def close(self, seconds=None) -> None:
        """Accepts no more sequences; see `Scheduler.close`."""
        if self.scheduler:
            self.scheduler.close(seconds)

    @functools.cached_property
    def rank(self):
        """See `top_logprobs.rank_function`."""
        return top_logprobs.rank_function(self.model)

    def echo(self, token_ids, is_scored):
        """Describes a prompt for an answer that repeats it.

        Args:
            token_ids: int32 [tokens].
            is_scored: whether to compute log p.

        Returns:
            (bytes of the tokens, log p of each token in nats). The latter is
            None for the first token, and for all if not `is_scored`.
        """
        tokens = self.model.token_bytes[token_ids].tolist()
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
