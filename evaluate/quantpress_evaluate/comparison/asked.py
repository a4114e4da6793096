"""How a run was asked, as lm-eval's results_<time>.json beside its samples tells it. The file is of others: whatever it
holds, reading it gives a value, nothing, or an InputError."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.runtime import foreign

_HINT = "restore the file, or remove it: then the samples alone are compared"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Asked:
    """How one task was asked: `settings` by what people call them, definitions of filters and metrics by name.

    What the file does not tell is not in them.
    """

    settings: dict[str, str] = field(default_factory=dict)
    filters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    aggregations: dict[str, str] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)


NOTHING = Asked()
# Arguments of lm-eval's models that name the model itself, or say where and how fast it is asked.
_NOT_OF_THE_MODEL = {
    *("pretrained", "model", "path", "tokenizer", "base_url", "device", "device_map", "parallelize", "batch_size"),
    *("max_batch_size", "max_length", "max_model_len", "max_gen_toks", "dtype", "trust_remote_code", "add_bos_token"),
    *("tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "swap_space"),
    *("max_num_seqs", "max_num_batched_tokens", "enforce_eager", "enable_prefix_caching", "seed", "num_concurrent"),
    *("max_retries", "timeout", "tokenized_requests", "tokenizer_backend", "use_fast_tokenizer", "logits_cache"),
    *("max_memory_per_gpu", "max_cpu_memory", "offload_folder", "low_cpu_mem_usage", "attn_implementation"),
    *("chat_template_args", "enable_thinking", "think_end_token", "disable_log_stats", "enable_chunked_prefill"),
}


@dataclass(frozen=True)
class Results:
    """One results_<time>.json."""

    path: Path
    document: dict[str, Any]

    @property
    def model(self) -> str | None:
        """The model's name as lm-eval has it."""
        name = self.document.get("model_name")
        return name if isinstance(name, str) and name else None

    @property
    def loaded_with(self) -> str:
        """The arguments by which the model was loaded otherwise than it lies there: in 4 bits, of another revision. All
        of one name have one model_name. "" where the file tells none."""
        given = _table(self.document.get("config")).get("model_args")
        if isinstance(given, str):
            pairs = (word.partition("=") for word in given.split(",") if "=" in word)
            given = {name.strip(): value.strip() for name, _, value in pairs}
        told = {str(name): value for name, value in _table(given).items() if str(name) not in _NOT_OF_THE_MODEL}
        return ",".join(f"{name}={told[name]}" for name in sorted(told))

    def asked(self, task: str) -> Asked:
        """How this task was asked. Raises InputError for values that are nested too deeply."""
        try:
            return self._asked(task)
        except RecursionError as error:
            raise InputError(f"{self.path}: the settings of {task} are nested too deeply", hint=_HINT) from error

    def _asked(self, task: str) -> Asked:
        config = _table(_table(self.document.get("configs")).get(task))
        metrics = {str(item["metric"]): item for item in _tables(config.get("metric_list")) if "metric" in item}
        filters = {str(item["name"]): item for item in _tables(config.get("filter_list")) if "name" in item}
        better = _table(_table(self.document.get("higher_is_better")).get(task))
        return Asked(
            settings={name: _canonical(value) for name, value in self._settings(task, config).items()},
            filters={name: _canonical(item) for name, item in filters.items()},
            metrics={name: _canonical(item) for name, item in metrics.items()},
            aggregations={name: str(item["aggregation"]) for name, item in metrics.items() if "aggregation" in item},
            higher_is_better={name: value for name, value in better.items() if isinstance(value, bool)},
        )

    def _settings(self, task: str, config: dict[str, Any]) -> dict[str, Any]:
        """What the file tells, by what people call it."""
        shots = _first(_table(self.document.get("n-shot")).get(task), config.get("num_fewshot"))
        version = _first(_table(self.document.get("versions")).get(task), _table(config.get("metadata")).get("version"))
        told: dict[str, Any] = {}
        told |= {} if shots is None else {"few-shot examples": shots}
        told |= {} if version is None else {"task version": version}
        told |= {} if not config else {"answers asked for each question": config.get("repeats", 1)}
        if config.get("output_type") in (None, "generate_until"):
            told |= {"generation settings": config["generation_kwargs"]} if "generation_kwargs" in config else {}
            general = _table(self.document.get("config"))
            told |= {"generation settings asked for": general["gen_kwargs"] or None} if "gen_kwargs" in general else {}
        return told | self._chat()

    def _chat(self) -> dict[str, Any]:
        """How questions were put as a chat. Empty texts are none at all."""
        template, turns = self.document.get("chat_template"), self.document.get("fewshot_as_multiturn")
        told: dict[str, Any] = {}
        if "chat_template" in self.document and not (template == "" and turns):
            # lm-eval asks for a template with turns; quantpress once wrote "" in its place.
            told["chat template"] = template.strip() or None if isinstance(template, str) else template
        elif self.document.get("chat_template_sha"):
            told["chat template's digest"] = self.document["chat_template_sha"]
        if "system_instruction" in self.document:
            told["system instruction"] = self.document["system_instruction"] or None
        if "fewshot_as_multiturn" in self.document:
            told["few-shot examples as turns of a chat"] = bool(turns)
        return told


def read(path: Path) -> Results:
    """A results_<time>.json. Raises InputError if it is something else, or larger than any of lm-eval's."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a regular file", hint=_HINT)
        document = foreign.read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} does not hold lm-eval's results: {first_line(error)}", hint=_HINT) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} does not hold lm-eval's results: it is no JSON object", hint=_HINT)
    return Results(path, document)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _canonical(value: Any) -> str:
    """The value as text that is equal for equal values: a function's address says nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return _ADDRESS.sub("", value)
    return "none" if value is None else _ADDRESS.sub("", json.dumps(value, sort_keys=True, ensure_ascii=False))
