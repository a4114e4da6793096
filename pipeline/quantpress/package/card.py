"""README.md of a package: a Hugging Face model card whose figures are those of accuracy.json and throughput.json."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress import report as reporting
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.throughput import Throughput
from quantpress.package.deploy import Engine
from quantpress.package.origin import Origin
from quantpress.report.views import markdown

_TASKS = {"ForCausalLM": "text-generation", "ForConditionalGeneration": "image-text-to-text"}
# A path below at least one folder; what stands before it may be an option's "=" but no part of a URL.
_PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/,'\"=]+/)+([^\s/,'\"=]+)")
_STAGING = re.compile(r"/\S+\.staging-\d+")


@dataclass(frozen=True)
class Facts:
    """Everything that the card repeats. `record` is the artifact's manifest, `config` the checkpoint's config.json,
    `scored` the accuracy on every suite, the last one's first.
    """

    name: str
    origin: Origin
    record: dict[str, Any]
    config: dict[str, Any]
    scored: list[Accuracy]
    throughput: dict[str, Any] | None
    engine: Engine
    recipe_text: str


def render(facts: Facts) -> str:
    """The whole card: metadata between lines of dashes, then Markdown."""
    from huggingface_hub import ModelCard  # 0.3 s: only where a card is made

    parts = [f"# {facts.name}", _introduction(facts), *_notes(facts), "## Use", _use(facts)]
    parts += [
        "## Quantization",
        _quantization(facts),
        "## Accuracy",
        *([_accuracy(facts, accuracy) for accuracy in facts.scored] or ["Not measured."]),
        "## Speed in vLLM",
        _speed(facts),
    ]
    if facts.throughput:
        parts += ["### Answers", reporting.answers_table(facts.record["recipe"]["name"], _typed(facts.throughput))]
    parts += ["## How it was made", _made(facts), "## Files", _FILES]
    body = "\n\n".join(parts)
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n"))


def metadata(facts: Facts) -> Any:
    """The card's metadata (huggingface_hub.ModelCardData). What is not known is left out."""
    from huggingface_hub import ModelCardData

    origin, formats = facts.origin, [str(facts.config["quantization_config"].get("format") or "")]
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
        tags=["compressed-tensors", "vllm", "llmcompressor", "quantpress", *filter(None, formats)],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _pipeline_tag(config: dict[str, Any]) -> str | None:
    names = [str(name) for name in config.get("architectures") or []]
    return next((task for end, task in _TASKS.items() for name in names if name.endswith(end)), None)


def evaluations(accuracy: Accuracy) -> list[Any]:
    """One huggingface_hub.EvalResult for each task that was scored, for the model-index."""
    from huggingface_hub import EvalResult

    versions, limited = accuracy.settings.versions, _limited(accuracy)
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=f"{name} ({row.documents} documents{', the first ones' if name in limited else ''})",
            metric_type=row.metric,
            metric_name=f"{row.metric}; the unquantized model on the same documents: {row.baseline:.4f}",
            metric_value=round(row.candidate, 4),
            source_name=f"lm-eval {versions.get('lm_eval', '')} through quantpress".replace("  ", " "),
            source_url="https://github.com/EleutherAI/lm-evaluation-harness",
        )
        for name, row in accuracy.tasks.items()
    ]


def _introduction(facts: Facts) -> str:
    before, after = facts.record["bytes"]["model"], facts.record["bytes"]["checkpoint"]
    origin, base = facts.origin, facts.origin.base_model
    model = f"[{base}](https://huggingface.co/{base})" if base else facts.record["model"]["name"]
    text = (
        f"{model}, compressed with [llmcompressor](https://github.com/vllm-project/llm-compressor) by the quantpress "
        f"recipe `{facts.record['recipe']['name']}` into a compressed-tensors checkpoint for vLLM: "
        f"{after / 1e6:.0f} MB of weights, {after / before:.0%} of the model's {before / 1e6:.0f} MB."
    )
    if not base:
        text += " The model's files do not say where on the Hugging Face hub it is, so no base model is named."
    if origin.license:
        return f"{text}\n\nLicense: `{origin.license}`, as {origin.source} says."
    return f"{text}\n\nLicense: the model's own files do not state one; ask whoever made the model."


def _notes(facts: Facts) -> list[str]:
    notes = [*facts.record["model"]["notes"], *facts.record["warnings"]]
    return [f"> **Note:** {note}" for note in notes]


def _use(facts: Facts) -> str:
    lines = ["vllm", "serve", ".", "--served-model-name", facts.name, *facts.engine.arguments]
    variables = {k: v for k, v in facts.engine.environment.items() if k.startswith("VLLM_CPU")}
    command = " ".join([*(f"{key}={value}" for key, value in variables.items()), shlex.join(lines)])
    notes = "\n".join(
        f"- {note.strip()}" if not note.startswith("  ") else f"  `{note.strip()}`" for note in facts.engine.notes
    )
    return (
        f"In this folder, with vLLM (container: `{facts.engine.image}`):\n\n```bash\n{command}\n```\n\n"
        "`deploy/` holds the same as a container command, a compose file, a Kubernetes Deployment with its Service, "
        f"and a KServe InferenceService. Where these arguments come from:\n\n{notes}"
    )


def _quantization(facts: Facts) -> str:
    config = facts.config["quantization_config"]
    header = ["layers", "weights", "scales of weights", "activations", "format"]
    rows = []
    for group in config.get("config_groups", {}).values():
        weights, inputs = group.get("weights"), group.get("input_activations")
        named = ", ".join(f"`{target}`" for target in group.get("targets", []))
        form = str(group.get("format") or config.get("format") or "")
        rows.append([named, _numbers(weights), _scales(weights), _activations(inputs), form])
    text = markdown.table(header, rows, len(header)) if rows else "No layer's weights are quantized."
    ignored = ", ".join(f"`{name}`" for name in config.get("ignore") or [])
    if ignored:
        text += f"\n\nNot quantized: {ignored}."
    if cache := config.get("kv_cache_scheme"):
        text += f"\n\nKV cache: {_numbers(cache)}."
    return f"{text}\n\n{facts.record['quantized_layers']} layers are quantized."


def _numbers(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return "as they are"
    kind = {"int": "integers", "float": "floats"}.get(str(scheme.get("type")), str(scheme.get("type")))
    return f"{scheme.get('num_bits')}-bit {kind}"


def _scales(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return ""
    one = {"group": f"group of {scheme.get('group_size')}", "tensor_group": f"group of {scheme.get('group_size')}"}
    strategy = str(scheme.get("strategy"))
    return f"one for each {one.get(strategy, strategy)}, {'symmetric' if scheme.get('symmetric') else 'asymmetric'}"


def _activations(scheme: dict[str, Any] | None) -> str:
    if not scheme:
        return "as they are"
    how = "scaled while serving" if scheme.get("dynamic") else "with fixed scales"
    return f"{_numbers(scheme)}, one scale for each {scheme.get('strategy')}, {how}"


def _accuracy(facts: Facts, accuracy: Accuracy) -> str:
    limited = _limited(accuracy)
    some = f"; of {', '.join(f'`{name}`' for name in limited)} only the first documents" if limited else ""
    text = reporting.accuracy_section(facts.record["recipe"]["name"], accuracy)
    return f"Suite `{accuracy.suite}`{some}.\n\n{text}"


def _limited(accuracy: Accuracy) -> list[str]:
    """The tasks of which not every document was asked."""
    return [task.task for task in accuracy.settings.tasks if task.limit]


def _speed(facts: Facts) -> str:
    if not facts.throughput:
        return "Not measured."
    return reporting.throughput_section({facts.record["recipe"]["name"]: _typed(facts.throughput)})


def _typed(throughput: dict[str, Any]) -> Throughput:
    return Throughput.read(throughput, Path("throughput.json"))


def _made(facts: Facts) -> str:
    record = facts.record
    versions = ", ".join(f"{name} {version}" for name, version in record["inputs"]["versions"].items())
    machine = record["machine"]
    where = ", ".join(machine["gpus"]) or f"{machine['processor']}, {machine['cores']} cores"
    tokens = f"{record['calibration']['tokens']} tokens" if record["calibration"] else "none"
    lines = [
        f"- made {record['created']} in {record['seconds']:.0f} s on {where}; {versions}",
        f"- calibration data: {tokens}",
        f"- digest of everything that went in: `{record['digest']}`",
    ]
    text = "\n".join(lines)
    text += f"\n\nThe recipe with every default (`recipe.resolved.yaml`):\n\n```yaml\n{facts.recipe_text.strip()}\n```"
    commands = _commands(facts)
    if commands:
        text += (
            "\n\nThe figures by hand (paths of the machine that measured are cut to their last part; "
            f"`{facts.name}` is this folder, `tasks` the suite's task files as quantpress writes them):\n\n```bash\n"
            + "\n\n".join(commands)
            + "\n```"
        )
    return text


def _commands(facts: Facts) -> list[str]:
    found = [f"# accuracy, {accuracy.suite}\n{accuracy.runs['candidate'].command}" for accuracy in facts.scored]
    if facts.throughput:
        servers = facts.throughput["servers"].items()
        found += [f"# {role}'s server\n{one['command']}" for role, one in servers if one["startup_s"] is not None]
        found += ["# load\n" + cell["command"] for cell in facts.throughput["cells"][:1]]
    return [_portable(command, facts.name) for command in found]


def _portable(command: str, name: str) -> str:
    """The command without the folders of the machine that it ran on."""
    command = _STAGING.sub("OUT", command)
    return _PATH.sub(lambda path: name if path[1] == "checkpoint" else path[1], command)


_FILES = (
    "`manifest.json` has the sha256 of every file; `quantpress verify FOLDER` checks them, and with `--public-key` the "
    "signature `model.sig` where there is one (OpenSSF model signing)."
)
