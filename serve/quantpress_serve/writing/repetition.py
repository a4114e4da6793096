"""What is wrong with an answer: that it is empty, or goes in circles. No import but the standard library: the script
that lets a model write runs in vLLM's environment."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_LOOP = 8  # tokens
_TURNS = 4  # of a loop, before it counts
_SHARE = 0.5  # of the answer, that the loop must fill


def degenerate(text: str) -> str | None:
    """What is wrong with a text that is empty, or repeats one character or one or two words; None for any other."""
    words = text.split()
    if not words:
        return "it is empty"
    if len(set(text.strip())) < 3:
        return "it holds no more than two characters"
    if len(words) >= 8 and len(set(words)) <= 2:
        return "it repeats one or two words"
    return loop(words)


def loop(items: Sequence[str]) -> str | None:
    """Says so if the same few items (tokens or words) come again and again in a row, for half of the answer or more."""
    for size in range(1, _LONGEST_LOOP + 1):
        run = best = 0
        for number in range(size, len(items)):
            run = run + 1 if items[number] == items[number - size] else 0
            best = max(best, run)
        length = best + size if best else 0
        if length >= _TURNS * size and length >= max(8, _SHARE * len(items)):
            return f"it repeats the same {size} token{'s' * (size > 1)} {length // size} times"
    return None


def circles(text: str) -> bool:
    """Whether under half of a longer text's word trigrams are distinct: sentences that come again and again."""
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(trigrams) >= 30 and len(set(trigrams)) < len(trigrams) / 2
