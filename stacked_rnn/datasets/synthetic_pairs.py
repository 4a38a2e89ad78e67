"""Generated pairs of texts: numbers, dates and identifiers.

They are the same in every run; the pairs of `identifiers_to_words` are made
from the standard library of the running Python.
"""

import datetime
import pathlib
import random
import re
import sysconfig

_NUM_NUMBERS = 30_000
_NUM_DATES = 10_000
_FORMATS_PER_DATE = 3

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_MONTHS = (
    "January February March April May June July August September October "
    "November December"
).split()
_ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh "
    "twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth "
    "nineteenth twentieth"
).split()


def words_of_number(number) -> str:
    """Spells an integer from 0 to 999,999,999: 105 is one hundred and five."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, units = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_UNITS[units]}" if units else "")
    for size, name in (
        (10**6, "million"),
        (1000, "thousand"),
        (100, "hundred"),
    ):
        if number >= size:
            count, rest = divmod(number, size)
            words = f"{words_of_number(count)} {name}"
            if rest:
                joint = " and " if rest < 100 else " "
                words += joint + words_of_number(rest)
            return words
    raise ValueError(number)


def forms_of_date(date) -> list[str]:
    """Returns a date in formats that people use, all of them unambiguous."""
    year, month, day = date.year, _MONTHS[date.month - 1], date.day
    weekday = _DAYS[date.weekday()]
    nth = _with_suffix(day)
    return [
        f"{day} {month} {year}",
        f"{day:02} {month[:3]} {year}",
        f"{month} {day}, {year}",
        f"{month[:3]}. {nth}, {year}",
        f"{weekday}, {day} {month} {year}",
        f"{weekday[:3]} {month[:3]} {day} {year}",
        f"{weekday}, {month} {nth} {year}",
        f"the {nth} of {month}, {year}",
        f"the {_ordinal(day)} of {month} {year}",
        f"{month.upper()} {day} {year}",
        f"{day}-{month[:3].upper()}-{year}",
        f"{year}, {month.lower()} {day}",
        f"{year}/{date.month}/{day}",
        f"{year}{date.month:02}{day:02}",
        f"{day:02}.{date.month:02}.{year}",
        f"{day}.{_ROMAN[date.month - 1]}.{year}",
    ]


def _with_suffix(day):
    suffixes = {1: "st", 2: "nd", 3: "rd"}
    is_teen = 10 < day < 20
    return f"{day}{'th' if is_teen else suffixes.get(day % 10, 'th')}"


def _ordinal(day):
    if day <= 20:
        return _ORDINALS[day - 1]
    tens, units = divmod(day, 10)
    if not units:
        return _TENS[tens - 2].removesuffix("y") + "ieth"
    return f"{_TENS[tens - 2]}-{_ORDINALS[units - 1]}"


def words_of_identifier(name) -> list[str]:
    """Splits an identifier: ReadOnly and READ_ONLY become read, only."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [word.lower() for word in words]


def forms_of_identifier(words) -> list[str]:
    """Joins words into identifiers, in five styles: read_only, ReadOnly, ..."""
    capitalized = [word.capitalize() for word in words]
    return [
        "_".join(words),
        "_".join(words).upper(),
        "".join(capitalized),
        "".join([words[0], *capitalized[1:]]),
        "".join(words),
    ]


def identifiers(modules="*.py") -> list[str]:
    """Returns the names that the standard library defines or assigns, sorted.

    Args:
        modules: a glob, relative to the directory of the standard library.
    """
    names = set()
    directory = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(directory.glob(modules)):
        source = path.read_text(encoding="utf-8", errors="replace")
        names.update(re.findall(r"\b(?:def|class)\s+(\w+)", source))
        names.update(re.findall(r"(\w+)\s*=[^=]", source))
    return sorted(names)


def numbers_to_words():
    """Generates pairs such as 127 -> one hundred and twenty-seven.

    They are all numbers below 1,000, and a sample of those up to a million.
    """
    large = random.Random(0).sample(range(1000, 1_000_001), _NUM_NUMBERS - 1000)
    numbers = [*range(1000), *large]
    return [(str(number), words_of_number(number)) for number in numbers]


def words_to_numbers():
    """Generates pairs such as one hundred and twenty-seven -> 127."""
    return [(words, number) for number, words in numbers_to_words()]


def dates_to_iso():
    """Generates pairs such as the 3rd of March, 2021 -> 2021-03-03."""
    rng = random.Random(0)
    first = datetime.date(1900, 1, 1)
    days = (datetime.date(2100, 1, 1) - first).days
    dates = [
        first + datetime.timedelta(day)
        for day in rng.sample(range(days), _NUM_DATES)
    ]
    return [
        (form, date.isoformat())
        for date in dates
        for form in rng.sample(forms_of_date(date), _FORMATS_PER_DATE)
    ]


def identifiers_to_words():
    """Generates pairs such as ReadOnly -> read only, READ_ONLY -> read only."""
    return [
        (form, " ".join(words))
        for words in words_of_identifiers(identifiers())
        for form in forms_of_identifier(words)
    ]


def words_of_identifiers(names):
    """Splits names; keeps those of two to five words, none of one letter."""
    found = {tuple(words_of_identifier(name)) for name in names}
    return sorted(
        words
        for words in found
        if 2 <= len(words) <= 5 and all(len(word) > 1 for word in words)
    )


GENERATORS = {
    generator.__name__: generator
    for generator in (
        numbers_to_words,
        words_to_numbers,
        dates_to_iso,
        identifiers_to_words,
    )
}
