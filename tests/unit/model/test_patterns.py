"""Targets and ignore: compressed-tensors' rule, in bounded time."""

import time

import pytest

from quantpress.errors import InputError
from quantpress.model.patterns import matching

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", "lm_head"]


def test_names_and_patterns() -> None:
    assert matching("lm_head", NAMES) == ["lm_head"]
    assert matching("re:.*proj$", NAMES) == NAMES[:2]
    assert matching("re:layers", NAMES) == []


def test_a_pattern_that_would_take_for_ever_is_refused() -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="takes more than"):
        matching("re:([a-z._0-9]+)+!", [NAMES[0] * 3])
    assert time.monotonic() - started < 10


def test_what_was_set_for_the_signal_is_set_again() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    matching("re:.*", NAMES)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
