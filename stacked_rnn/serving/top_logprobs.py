"""The likeliest tokens at each place of a text: `logprobs` from 1 on.

The loop that draws tells log p of what it drew and of nothing else. So a text
whose likeliest tokens are wanted is read once more, beside that loop.
"""

import functools

import tensorflow as tf

MOST = 5  # tokens of a place
MOST_READ = 10_000  # tokens of all prompts of a request


def rank_function(model):
    """What reads tokens and ranks those that might come after each.

    Args:
        model: an `inference.SavedLanguageModel`.

    Returns:
        (token ids int32 [tokens], the states before them, see `state_specs`)
        -> (log p float32 [tokens, MOST], token ids int32 [tokens, MOST],
        states).
    """
    decode_step = model.functions.signatures["decode_step"]
    count = min(MOST, model.tokenizer.vocabulary_size())

    @functools.partial(
        tf.function,
        input_signature=[tf.TensorSpec([None], tf.int32), model.state_specs],
        autograph=False,
    )
    def rank(token_ids, states):
        def step(before, token_id):
            new = decode_step(token_ids=token_id[None], **before[2])
            log_probs = tf.nn.log_softmax(new.pop("logits")[0])
            return *tf.math.top_k(log_probs, count), new

        log_probs, likeliest, all_states = tf.scan(
            step,
            token_ids,
            (tf.zeros([count]), tf.zeros([count], tf.int32), states),
        )
        last = {name: state[-1] for name, state in all_states.items()}
        return log_probs, likeliest, last

    return rank


class TopLogprobs:
    """Follows a text; a copy follows another that begins with the same tokens.

    Args:
        model: an `inference.SavedLanguageModel`.
        rank: its `rank_function`.
    """

    def __init__(self, model, rank):
        self._token_bytes = model.token_bytes
        self._rank, self._states = rank, model.initial_states(1)
        self._last = []  # the token before those that come, if there is one

    def read(self, token_ids) -> list:
        """Goes on.

        Args:
            token_ids: of the tokens that come, a list.

        Returns:
            For each of them what was likely in its place: (log p, bytes) of
            some tokens, the likeliest first; None for the first of a text.
        """
        if not token_ids:
            return []
        ranked = [] if self._last else [None]
        known, self._last = self._last + token_ids[:-1], token_ids[-1:]
        if known:
            log_probs, likeliest, self._states = self._rank(
                tf.constant(known, tf.int32), self._states
            )
            tokens = self._token_bytes[likeliest.numpy()]
            places = zip(log_probs.numpy().tolist(), tokens.tolist())
            ranked += [[*zip(*place)] for place in places]
        return ranked
