"""The most likely tokens at each position of a text: `logprobs` from 1 on.

The decode loop returns log p of the token that it draws, and of no other. So
where the most likely tokens are wanted, the model reads the text once more,
outside that loop.
"""

import functools

import tensorflow as tf

_END_OF_TEXT = b"<|endoftext|>"  # stands for the token that ends a text
MOST = 5  # tokens per position
MOST_READ = 10_000  # tokens in all prompts of a request


def token_names(model):
    """The bytes of each token; the one that ends a text has a name instead.

    Args:
        model: an `inference.SavedLanguageModel`.

    Returns:
        An array of bytes objects, [vocabulary].
    """
    names = model.token_bytes
    if model.tokenizer.end_id is not None:
        names = names.copy()
        names[model.tokenizer.end_id] = _END_OF_TEXT
    return names


def rank_function(model):
    """Makes a function that ranks the tokens that may follow each token.

    Args:
        model: an `inference.SavedLanguageModel`.

    Returns:
        A function: (token ids int32 [tokens], states before them, see
        `state_specs`) -> (log p float32 [tokens, MOST], ids of the most likely
        next tokens int32 [tokens, MOST], states after them). A vocabulary of
        fewer than MOST tokens has that many columns.
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

    # TensorFlow would warn that the function of each model traces anew.
    return rank.get_concrete_function()


class TopLogprobs:
    """Reads a text in parts and ranks the tokens at each position.

    Copy it to read several continuations of what it has read.

    Args:
        model: an `inference.SavedLanguageModel`.
        rank: `rank_function(model)`.
        names: `token_names(model)`.
    """

    def __init__(self, model, rank, names):
        self._names = names
        self._rank, self._states = rank, model.initial_states(1)
        self._last = []  # the token that was read last, if any

    def read(self, token_ids) -> list:
        """Reads the next part of the text.

        Args:
            token_ids: list of the token ids of that part.

        Returns:
            Per token, a list of (log p, bytes) of the tokens most likely at its
            position, the best first; None for the first token of the text.
        """
        if not token_ids:
            return []
        ranked = [] if self._last else [None]
        known, self._last = self._last + token_ids[:-1], token_ids[-1:]
        if known:
            log_probs, likeliest, self._states = self._rank(
                tf.constant(known, tf.int32), self._states
            )
            tokens = self._names[likeliest.numpy()]
            rows = zip(log_probs.numpy().tolist(), tokens.tolist())
            ranked += [[*zip(*row)] for row in rows]
        return ranked
