"""An identity as 24 words for paper: BIP-39, English, of the 32 bytes of its seed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from trinity_snap.errors import KeyFileError
from trinity_snap.repository.keys import Identity

if TYPE_CHECKING:
    from mnemonic import Mnemonic

WORD_COUNT = 24
_UNIQUE_LETTERS = 4
"""No two words of the list share their first four letters."""


@lru_cache(maxsize=1)
def _english() -> Mnemonic:
    from mnemonic import Mnemonic

    return Mnemonic("english")


def identity_to_words(identity: Identity) -> list[str]:
    """The 24 words of an identity's seed."""
    words: str = _english().to_mnemonic(identity.seed)
    return words.split(" ")


def identity_from_words(words: Sequence[str] | str, label: str = "") -> Identity:
    """The identity that 24 words stand for; four letters of each are enough, and upper case does not matter.

    Raise KeyFileError that says which words are not in the list, how many there are, or that one must be
    wrong.
    """
    given = words.split() if isinstance(words, str) else [part for word in words for part in word.split()]
    known = [_known_word(word) for word in given]
    unknown = [
        f"word {number} ({word!r:.30}{_suggestion(word)})"
        for number, (word, found) in enumerate(zip(given, known, strict=True), start=1)
        if found is None
    ]
    if unknown:
        subject = "This is" if len(unknown) == 1 else "These are"
        raise KeyFileError(
            f"{subject} not in the word list: {', '.join(unknown[:WORD_COUNT])}.",
            next_step="Compare with what is written on the paper.",
        )
    if len(given) != WORD_COUNT:
        raise KeyFileError(f"An identity has {WORD_COUNT} words, and {len(given)} were given.")
    try:
        seed = bytes(_english().to_entropy([word for word in known if word is not None]))
    except ValueError as error:
        raise KeyFileError(
            "All of these words are in the word list, but they do not fit together: the checksum is wrong.",
            next_step="One word is another one than on the paper, or two have changed places.",
        ) from error
    return Identity(seed, label)


def _known_word(word: str) -> str | None:
    """The word of the list that is meant, None if there is none."""
    lower = word.casefold()
    wordlist = _english().wordlist
    if lower in wordlist:
        return lower
    if len(lower) >= _UNIQUE_LETTERS:
        return next((candidate for candidate in wordlist if candidate.startswith(lower)), None)
    return None


def _suggestion(word: str) -> str:
    near = difflib.get_close_matches(word.casefold()[:30], _english().wordlist, n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else ""
