"""How text is generated: sampling and beam search."""

import dataclasses
import math

from stacked_rnn.configs.base import Config, setting

MAX_NEW_TOKENS = 1_000_000  # of one text; the SavedModel holds to it too


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Config):
    """How tokens are drawn from the model's distribution."""

    max_new_tokens: int = setting(
        300, "Most tokens to generate.", minimum=0, maximum=MAX_NEW_TOKENS
    )
    temperature: float = setting(
        0.8,
        "Below 1 bolder towards the likely tokens, above 1 more surprising, "
        "0 always the likeliest.",
        minimum=0.0,
        below=math.inf,
    )
    top_k: int = setting(
        0, "Draw among the k likeliest tokens only (0: all).", minimum=0
    )
    top_p: float = setting(
        1.0,
        "Draw among the likeliest tokens that together have at least this "
        "probability.",
        minimum=1e-9,
        maximum=1.0,
    )
    repetition_penalty: float = setting(
        1.0,
        "Above 1: make tokens that were seen already less likely; made for "
        "words, too blunt for characters.",
        minimum=0.01,
    )
    seed: int = setting(
        0,
        "Seed of the draw: the same seed, prompt and model give the same "
        "text. Sample number n uses seed + n.",
        minimum=0,
        below=2**63,
    )

    @property
    def is_plain(self) -> bool:
        """Whether the temperature alone changes the distribution."""
        return not self.top_k and self.top_p == self.repetition_penalty == 1.0


@dataclasses.dataclass(frozen=True)
class BeamConfig(Config):
    """How a seq2seq model looks for the text to write."""

    num_beams: int = setting(
        4,
        "Of seq2seq: keep so many beginnings of a text at a time, and take the "
        "best in the end (1: always the likeliest token).",
        minimum=1,
        maximum=1000,
    )
    length_penalty: float = setting(
        0.0,
        "Of seq2seq: texts are compared by log p / length ** length_penalty: "
        "0 takes the likeliest, 1 the best mean over the tokens, which favours "
        "longer ones.",
        minimum=0.0,
        maximum=4.0,
    )
    max_new_tokens: int = setting(
        0,
        "Of seq2seq: most tokens to write (0: twice as many as the longest "
        "target of the training has).",
        minimum=0,
        maximum=MAX_NEW_TOKENS,
    )
