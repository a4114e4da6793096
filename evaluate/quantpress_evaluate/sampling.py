"""Which documents of a task a limit takes: a random sample, and the same one for whoever asks."""

from __future__ import annotations

import hashlib


def sample(task: str, seed: int, available: int, count: int) -> list[int]:
    """`count` of the documents 0 to `available` - 1 of a task, drawn at random without replacement, in their order.

    They are the first ones of one permutation, which `seed` and the task's name decide: a larger sample holds every
    smaller one, so that what was answered stays answered. The permutation sorts the documents by a digest of their
    number, which no library's generator of random numbers can make another one tomorrow.
    """

    def place(number: int) -> bytes:
        return hashlib.sha256(f"{seed}:{task}:{number}".encode()).digest()

    return sorted(sorted(range(available), key=place)[:count])
