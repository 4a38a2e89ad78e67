"""Words of twenty languages that nobody speaks, to tell apart.

Five families have letters and syllables of their own; a few letters say which
it is. Within a family four languages write with the same syllables and differ
in a rule that spans a word: which letters are beside each other says little.
"""

import random

_FAMILIES = (
    # Consonants, voiceless and voiced by turns; front, then back vowels.
    ("kgtdsz", "ei", "ou"),
    ("pbtdfv", "ie", "ao"),
    ("kgpbcj", "ey", "au"),
    ("tdszxq", "iy", "ou"),
    ("fvszkg", "ey", "ao"),
)
_RULES = ("free", "harmony", "voicing", "echo")


def texts(count, seed=0):
    """Yields (word, language), the languages by turns."""
    rng = random.Random(seed)
    names = [
        (family, rule)
        for family in range(len(_FAMILIES))
        for rule in range(len(_RULES))
    ]
    for number in range(count):
        family, rule = names[number % len(names)]
        yield (
            _word(rng, *_FAMILIES[family], _RULES[rule]),
            (f"{'ABCDE'[family]} {_RULES[rule]}"),
        )


def _word(rng, consonants, front, back, rule):
    """Four to seven syllables of a consonant and a vowel.

    harmony: all vowels are of the class of the first; voicing: all consonants
    are; echo: the last syllable is the first one; free: anything.
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
