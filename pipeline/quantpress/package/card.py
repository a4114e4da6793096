"""README.md of a package: a Hugging Face model card whose figures are those of accuracy.json and throughput.json."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from quantpress import report as reporting
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Manifest
from quantpress.artifact.throughput import Throughput
from quantpress.language import quoting
from quantpress.language.quoting import Verbatim
from quantpress.package import texts
from quantpress.package.deploy import Engine
from quantpress.package.origin import Origin
from quantpress.report.views import markdown

_TASKS = {"ForCausalLM": "text-generation", "ForConditionalGeneration": "image-text-to-text"}
# A path below at least one folder; what stands before it may be an option's "=" but no part of a URL.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/,'\"=]+/)+([^\s/,'\"=]+)")
_STAGING = re.compile(r"/\S+\.staging-\d+")


@dataclass(frozen=True)
class Facts:
    """Everything that the card repeats. `made` is the artifact's manifest, `config` the checkpoint's config.json,
    `scored` the accuracy on every suite, the last one's first; `recipe_text` is None for what was made elsewhere.
    """

    name: str
    origin: Origin
    made: Manifest
    config: dict[str, Any]
    scored: list[Accuracy]
    throughput: Throughput | None
    engine: Engine
    recipe_text: str | None


def render(facts: Facts) -> str:
    """The whole card: metadata between lines of dashes, then Markdown."""
    from huggingface_hub import ModelCard  # 0.3 s: only where a card is made

    made, name, scheme = facts.made, facts.made.recipe_name, facts.config.get("quantization_config") or {}
    measured = facts.throughput
    machine = ", ".join(made.machine.gpus) or f"{made.machine.processor}, {made.machine.cores} cores"
    text = texts.rendered(
        "card.md.jinja",
        quoting.markdown,
        metadata=Verbatim(metadata(facts).to_yaml()),
        name=facts.name,
        made=made,
        origin=facts.origin,
        base=facts.origin.base_model,
        share=f"{made.bytes.checkpoint / made.bytes.model:.0%}",
        engine=facts.engine,
        command=_command(facts),
        groups=_groups(scheme),
        ignored=scheme.get("ignore") or [],
        kv_cache=_numbers(scheme["kv_cache_scheme"]) if scheme.get("kv_cache_scheme") else None,
        suites=[_suite(name, accuracy) for accuracy in facts.scored],
        speed=Verbatim(reporting.throughput_section({name: measured})) if measured else None,
        answers=Verbatim(reporting.answers_table(name, measured)) if measured else None,
        machine=machine,
        versions=", ".join(f"{library} {version}" for library, version in made.inputs.versions.items()),
        recipe=(facts.recipe_text or "").strip(),
        commands="\n\n".join(_commands(facts)),
    )
    return str(ModelCard(text))


def metadata(facts: Facts) -> Any:
    """The card's metadata (huggingface_hub.ModelCardData). What is not known is left out."""
    from huggingface_hub import ModelCardData

    origin, said = facts.origin, facts.config.get("quantization_config") or {}
    formats = [str(said.get("quant_method") or ""), "vllm", *([] if facts.made.adopted else ["llmcompressor"])]
    formats += ["quantpress", str(said.get("format") or "")]
    results = [result for accuracy in facts.scored for result in evaluations(accuracy)]
    return ModelCardData(
        base_model=origin.base_model,
        base_model_relation="quantized" if origin.base_model else None,
        language=origin.language or None,
        library_name="transformers",
        license=origin.license,
        license_name=origin.license_name,
        license_link=origin.license_link,
        pipeline_tag=_pipeline_tag(facts.config),
        tags=list(dict.fromkeys(filter(None, formats))),
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _pipeline_tag(config: dict[str, Any]) -> str | None:
    names = [str(name) for name in config.get("architectures") or []]
    return next((task for end, task in _TASKS.items() for name in names if name.endswith(end)), None)


def evaluations(accuracy: Accuracy) -> list[Any]:
    """One huggingface_hub.EvalResult for each task that was scored, for the model-index."""
    from huggingface_hub import EvalResult

    versions = accuracy.settings.versions
    chosen = {task.task: task.chosen for task in accuracy.settings.tasks if task.chosen}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=f"{name} ({row.documents} documents{', ' + chosen[name] if name in chosen else ''})",
            metric_type=row.metric,
            metric_name=f"{row.metric}; the unquantized model on the same documents: {row.baseline:.4f}",
            metric_value=round(row.candidate, 4),
            source_name=f"lm-eval {versions.get('lm_eval', '')} through quantpress".replace("  ", " "),
            source_url="https://github.com/EleutherAI/lm-evaluation-harness",
        )
        for name, row in accuracy.tasks.items()
    ]


def _command(facts: Facts) -> str:
    """What to type in the package's folder."""
    words = ["vllm", "serve", ".", "--served-model-name", facts.name, *facts.engine.arguments]
    variables = {k: v for k, v in facts.engine.environment.items() if k.startswith("VLLM_CPU")}
    return " ".join(
        [*(f"{key}={quoting.shell(value)}" for key, value in variables.items()), *map(quoting.shell, words)]
    )


def _groups(scheme: dict[str, Any]) -> Verbatim | None:
    """How layers are stored, as a table; None where no layer's weights are quantized."""
    header = ["layers", "weights", "scales of weights", "activations", "format"]
    rows = []
    for group in scheme.get("config_groups", {}).values():
        weights, inputs = group.get("weights"), group.get("input_activations")
        named = Verbatim(", ".join(quoting.code(target) for target in group.get("targets", [])))
        form = str(group.get("format") or scheme.get("format") or "")
        rows.append([named, _numbers(weights), _scales(weights), _activations(inputs), form])
    return Verbatim(markdown.table(header, rows, len(header))) if rows else None


def _numbers(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return "as they are"
    kind = {"int": "integers", "float": "floats"}.get(str(scheme.get("type")), str(scheme.get("type")))
    return f"{scheme.get('num_bits')}-bit {kind}"


def _scales(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return ""
    one = {"group": f"group of {scheme.get('group_size')}", "tensor_group": f"group of {scheme.get('group_size')}"}
    strategy, symmetric = scheme.get("strategy"), scheme.get("symmetric")
    each = f"one for each {one.get(str(strategy), strategy)}" if strategy else ""
    around = "" if symmetric is None else "symmetric" if symmetric else "asymmetric"
    return ", ".join(filter(None, (each, around))) or "not stated"


def _activations(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return "as they are"
    how = "scaled while serving" if scheme.get("dynamic") else "with fixed scales"
    each = f", one scale for each {scheme['strategy']}" if scheme.get("strategy") else ""
    return f"{_numbers(scheme)}{each}, {how}"


def _suite(recipe: str, accuracy: Accuracy) -> dict[str, Any]:
    section = Verbatim(reporting.accuracy_section(recipe, accuracy))
    return {"name": accuracy.suite, "limited": _limited(accuracy), "section": section}


def _limited(accuracy: Accuracy) -> dict[str, list[str]]:
    """The tasks of which not every document was asked, by how those that were asked were chosen."""
    found: dict[str, list[str]] = {}
    for task in accuracy.settings.tasks:
        if task.chosen:
            found.setdefault(task.chosen, []).append(task.task)
    return found


def _commands(facts: Facts) -> list[str]:
    found = [f"# accuracy, {accuracy.suite}\n{accuracy.runs['candidate'].command}" for accuracy in facts.scored]
    if facts.throughput:
        servers = facts.throughput.servers.items()
        found += [f"# {role}'s server\n{one.command}" for role, one in servers if one.startup_s is not None]
        found += [f"# load\n{cell.command}" for cell in facts.throughput.cells[:1]]
    return [_portable(command, facts.name) for command in found]


def _portable(command: str, name: str) -> str:
    """The command without the folders of the machine that it ran on."""
    command = _STAGING.sub("OUT", command)
    return _PATH.sub(lambda path: name if path[1] == "checkpoint" else path[1], command)
