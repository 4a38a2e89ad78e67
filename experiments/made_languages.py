"""Words of twenty invented languages, for classifiers to tell apart.

Each of five families has its own letters and syllables, so a few letters tell
the family. The four languages of a family share the syllables and differ in a
rule that spans a word, so neighbouring letters tell little about the language.
"""

import random

_FAMILIES = (
    # Consonants, voiceless and voiced in turn; front vowels; back vowels.
    ("kgtdsz", "ei", "ou"),
    ("pbtdfv", "ie", "ao"),
    ("kgpbcj", "ey", "au"),
    ("tdszxq", "iy", "ou"),
    ("fvszkg", "ey", "ao"),
)
_RULES = ("free", "harmony", "voicing", "echo")


def texts(count=20_000):
    """Yields (word, language), the languages in turn."""
    rng = random.Random(0)
    names = [
        (family, rule)
        for family in range(len(_FAMILIES))
        for rule in range(len(_RULES))
    ]
    for number in range(count):
        family, rule = names[number % len(names)]
        yield (
            _word(rng, *_FAMILIES[family], _RULES[rule]),
            f"{'ABCDE'[family]} {_RULES[rule]}",
        )


def _word(rng, consonants, front, back, rule):
    """A word of four to seven syllables, each a consonant and a vowel.

    The rules: harmony, all vowels are front or all are back; voicing, all
    consonants are voiced or none is; echo, the last syllable repeats the first;
    free, anything goes.
    """
    vowels = rng.choice((front, back)) if rule == "harmony" else front + back
    if rule == "voicing":
        consonants = consonants[rng.randrange(2) :: 2]
    syllables = [
        rng.choice(consonants) + rng.choice(vowels)
        for _ in range(rng.randint(4, 7))
    ]
    if rule == "echo":
        syllables[-1] = syllables[0]
    return "".join(syllables)
