"""Files of prompts for `vllm bench serve`, looked through before a server is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.runtime import atomic

_SHAREGPT = 'ShareGPT-style JSON: [{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}, ...]'
_JSONL = 'JSONL: {"prompt": "...", "output_tokens": 128} in each line'


def usable(form: str, path: Path, has_output_len: bool) -> int:
    """The number of prompts that vLLM can use. Raises InputError for a file that it would refuse or stumble over."""
    if not path.is_file():
        raise InputError(f"prompts: {path}: no such file", hint="the path is relative to the workload's file")
    text = atomic.read_input(path)
    found = _sharegpt(path, text) if form == "sharegpt" else sum(1 for _ in _jsonl(path, text, has_output_len))
    if not found:
        raise InputError(f"prompts: {path} holds no prompt that can be used", hint=_expected(form))
    return found


def _expected(form: str) -> str:
    return _SHAREGPT if form == "sharegpt" else _JSONL


def _sharegpt(path: Path, text: str) -> int:
    """Conversations of two turns or more; vLLM passes over shorter ones and sends the first turn of the others."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"prompts: {path} is not JSON: {error}", hint=_SHAREGPT) from error
    if not isinstance(entries, list):
        raise InputError(f"prompts: {path} holds no list", hint=_SHAREGPT)
    return sum(_has_two_turns(path, number, entry) for number, entry in enumerate(entries, 1))


def _has_two_turns(path: Path, number: int, entry: Any) -> bool:
    turns = entry.get("conversations", []) if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise InputError(f"prompts: {path}: entry {number} is not a conversation", hint=_SHAREGPT)
    if any(not isinstance(turn, dict) or not isinstance(turn.get("value"), str) for turn in turns[:2]):
        raise InputError(f"prompts: {path}: entry {number} has a turn without a text in `value`", hint=_SHAREGPT)
    return len(turns) >= 2


def _jsonl(path: Path, text: str, has_output_len: bool) -> Iterator[str]:
    if path.suffix != ".jsonl":
        raise InputError(f"prompts: {path} does not end in .jsonl, by which vLLM knows it", hint="rename it")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"prompts: {path}:{number}: not JSON: {error}", hint=_JSONL) from error
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"prompts: {path}:{number}: `prompt` is missing or no text", hint=_JSONL)
        tokens = row.get("output_tokens")
        if not has_output_len and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
            raise InputError(
                f"prompts: {path}:{number}: `output_tokens` is {tokens!r}, not a number from 1 on",
                hint="add it to every line, or give the workload an output_len",
            )
        yield prompt
