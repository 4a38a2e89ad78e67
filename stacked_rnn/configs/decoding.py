"""Settings of sampling and beam search."""

import dataclasses
import math

from stacked_rnn.configs.base import Config, setting

MAX_NEW_TOKENS = 1_000_000  # per text; the SavedModel enforces it too


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Config):
    """How to draw tokens from the model's distribution."""

    max_new_tokens: int = setting(
        300, "Maximum number of new tokens.", minimum=0, maximum=MAX_NEW_TOKENS
    )
    temperature: float = setting(
        0.8,
        "Divides the logits: below 1, likely tokens become likelier; above 1, "
        "the text becomes more surprising; 0 always takes the likeliest token.",
        minimum=0.0,
        below=math.inf,
    )
    top_k: int = setting(
        0,
        "Draw from the k likeliest tokens only (0: all).",
        minimum=0,
        maximum=2**31 - 1,  # as the SavedModel takes it
    )
    top_p: float = setting(
        1.0,
        "Draw from the likeliest tokens only, as many as have at least this "
        "probability together.",
        minimum=1e-9,
        maximum=1.0,
    )
    repetition_penalty: float = setting(
        1.0,
        "Above 1, makes tokens less likely that have already occurred; meant "
        "for words, too blunt for characters.",
        minimum=0.01,
    )
    seed: int = setting(
        0,
        "Random seed: the same seed, prompt and model give the same "
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
    """Beam search of a seq2seq model."""

    num_beams: int = setting(
        4,
        "Seq2seq only: number of beams, the outputs that are written at the "
        "same time and of which the best is taken (1: greedy, always the "
        "likeliest token).",
        minimum=1,
        maximum=1000,
    )
    length_penalty: float = setting(
        0.0,
        "Seq2seq only: exponent of the length when outputs are compared by "
        "log p / length ** length_penalty: 0 takes the likeliest, 1 the best "
        "mean log p per token, which favours longer ones.",
        minimum=0.0,
        maximum=4.0,
    )
    max_new_tokens: int = setting(
        0,
        "Seq2seq only: maximum number of tokens to write (0: twice the length "
        "of the longest training target).",
        minimum=0,
        maximum=MAX_NEW_TOKENS,
    )
