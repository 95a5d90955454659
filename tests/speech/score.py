"""How far a text is from what was said: Whisper's own normaliser's rules, then errors by word or by character.

The counting needs nothing but Python; `Normaliser` needs the package whisper-normalizer.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass

# Languages written without spaces between words, where characters are counted instead.
BY_CHARACTER = {"zh", "yue", "ja", "ko"}

# The ladder of OpenAI's code calls a text repetitive above this.
REPETITIVE = 2.4
# A text is a runaway where it is longer than this many times what was said, and this many words or characters more.
RUNAWAY_TIMES = 1.5
RUNAWAY_WORDS = 10
RUNAWAY_CHARACTERS = 20

# With more speakers at once than this, only the order of the manifest is tried: 120 orders take long enough.
MOST_ORDERED = 5


class Normaliser:
    """Text to the units that are counted."""

    def __init__(self):
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer

        self._english, self._basic = EnglishTextNormalizer(), BasicTextNormalizer()

    def units(self, text: str, language: str) -> list[str]:
        """The words of `text`, or its characters in `BY_CHARACTER`. `language` is a code, or `none`."""
        if language in BY_CHARACTER:
            return [character for character in self._basic(text) if not character.isspace()]
        rules = self._english if language in ("en", "none") else self._basic
        return rules(text).split()


@dataclass(frozen=True)
class Score:
    """`errors` are substitutions, deletions and insertions; `units` the words or characters of the reference."""

    errors: int
    units: int
    heard: int
    runaway: bool


def distance(said: list[str], heard: list[str]) -> int:
    """The fewest substitutions, deletions and insertions that make one of the other."""
    # Equal ends cost nothing and are most of a good transcript.
    first = 0
    while first < min(len(said), len(heard)) and said[first] == heard[first]:
        first += 1
    last = 0
    while last < min(len(said), len(heard)) - first and said[-1 - last] == heard[-1 - last]:
        last += 1
    said, heard = said[first : len(said) - last], heard[first : len(heard) - last]
    row = list(range(len(heard) + 1))
    for number, unit in enumerate(said, 1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(heard, 1):
            cheapest = min(row[column] + 1, row[column - 1] + 1, diagonal + (unit != other))
            diagonal, row[column] = row[column], cheapest
    return row[-1]


def score(references: list[str], text: str, language: str, units) -> Score:
    """Counts against the reference that fits best; `units` is `Normaliser.units` or a stand-in.

    Several references are people who speak at once: any order of their whole texts counts.
    """
    heard = units(text, language)
    orders = itertools.permutations(references) if len(references) <= MOST_ORDERED else [references]
    counted = []
    for order in orders:
        said = units(" ".join(order), language)
        counted.append((distance(said, heard), len(said)))
    errors, length = min(counted)
    return Score(errors, length, len(heard), is_runaway(" ".join(references), text, length, len(heard), language))


def is_runaway(reference: str, text: str, said: int, heard: int, language: str) -> bool:
    """Whether the model went on by itself: far more text than was said, or a loop that nobody spoke."""
    spare = RUNAWAY_CHARACTERS if language in BY_CHARACTER else RUNAWAY_WORDS
    if heard > RUNAWAY_TIMES * said + spare:
        return True
    return compression_ratio(text) > REPETITIVE >= compression_ratio(reference)


def compression_ratio(text: str) -> float:
    """How much zlib makes of a text, as OpenAI's code measures it."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
