"""Files of prompts for `vllm bench serve`, looked through before a server is started."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.language import lines
from quantpress.runtime import atomic, digests
from quantpress.runtime.cache import cache_folder

_SHAREGPT = 'ShareGPT-style JSON: [{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}, ...]'
_JSONL = 'JSONL: {"prompt": "...", "output_tokens": 128} in each line'


def usable(form: str, path: Path, has_output_len: bool) -> int:
    """The number of prompts that vLLM can use. Raises InputError for a file that it would refuse or stumble over."""
    if not path.is_file():
        raise InputError(f"prompts: {path}: no such file", hint="the path is relative to the workload's file")
    found = _sharegpt(path) if form == "sharegpt" else _jsonl(path, has_output_len)
    if not found:
        raise InputError(f"prompts: {path} holds no prompt that can be used", hint=_expected(form))
    return found


def as_vllm_reads_it(path: Path) -> Path:
    """The file itself, or a copy in the cache without the byte order mark, over which vLLM stumbles."""
    with path.open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            return path
        copy = cache_folder().resolve() / "prompts" / f"{digests.sha256_file(path)[:16]}{path.suffix}"
        atomic.write_text(copy, stream.read().decode("utf-8"))
    return copy


def _expected(form: str) -> str:
    return _SHAREGPT if form == "sharegpt" else _JSONL


def _sharegpt(path: Path) -> int:
    """Conversations of two turns or more; vLLM passes over shorter ones and sends the first turn of the others."""
    entries = lines.parsed(atomic.read_input(path), f"prompts: {path}", _SHAREGPT)
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


def _jsonl(path: Path, has_output_len: bool) -> int:
    """The number of prompts; raises InputError with the line of one that vLLM could not send."""
    if path.suffix != ".jsonl":
        raise InputError(f"prompts: {path} does not end in .jsonl, by which vLLM knows it", hint="rename it")
    found, all_numbers = 0, True
    for number, row in lines.json_lines(path, _JSONL, "prompts: "):
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"prompts: {path}:{number}: `prompt` is missing or no text", hint=_JSONL)
        tokens = row.get("output_tokens")
        if not has_output_len and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
            raise InputError(
                f"prompts: {path}:{number}: `output_tokens` is {tokens!r}, not a number from 1 on",
                hint="add it to every line, or give the workload an output_len",
            )
        found, all_numbers = found + 1, all_numbers and _is_number(prompt)
    if found and all_numbers:
        raise InputError(
            f"prompts: {path}: every prompt is a number, and vLLM makes numbers of a column of them",
            hint="put words into one of the prompts",
        )
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
