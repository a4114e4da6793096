"""Peers, side by side: the same model, tokens and group size through GPTQModel, AutoRound and plain llmcompressor.

    make bench-peers ARGS="--data FOLDER --limit 60"

`quantpress quantize gptq-w4a16` comes first: its calibration tokens and its group size are what the peers get, each in
an environment of its own (benchmarks/peers/*.txt) and otherwise with its own defaults (benchmarks/peers/with_*.py).
Each checkpoint is adopted, scored on the same documents and measured in vLLM against the unquantized model. Prints a
Markdown table, which is in OUT/peers.md too. Started again, it does what is missing; a peer that cannot be made or
served is named with its reason.

Times are processor seconds of the whole process, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy

from kl_difference import nearness
from making import Made, last_line, once, told_of
from next_tokens import Divergence, mean, mean_difference
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact, artifact_of
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import Throughput
from quantpress.model import source as models
from quantpress.model.source import Model, find_model
from quantpress.quantize.calibration_data import packed
from quantpress.recipe.loading import load_recipe
from quantpress.report.facts.accuracy import score_of
from quantpress.report.facts.data import Figure, Ratio, load_in_words
from quantpress.report.facts.speed import speed_of
from quantpress.report.views import formats, markdown
from quantpress.runtime import atomic, environment
from timing import QUIET, complaint

RECIPE = "gptq-w4a16"
HELD_OUT = "held-out.json"  # as many tokens of the same chats that no checkpoint was calibrated on
SCRIPTS = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Peer:
    """A row of the table: the library that makes it, and what its script is told beside model, tokens and groups."""

    name: str
    library: str
    options: tuple[str, ...] = ()

    @property
    def requirements(self) -> Path:
        return SCRIPTS / f"{self.library}.txt"

    @property
    def script(self) -> Path:
        return SCRIPTS / f"with_{self.library}.py"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("gptqmodel", "gptqmodel"),
        Peer("autoround", "autoround"),
        Peer("autoround-light", "autoround", ("light",)),
        Peer("plain-llmcompressor", "llmcompressor"),
    )
}


def environment_of(peer: Peer, envs: Path) -> Path:
    """The Python of the library's own environment, which is created unless it holds these very requirements."""
    folder, wanted = envs / peer.library, peer.requirements.read_text()
    stamp, python = folder / ".complete", folder / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"creating {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--progress-bar", "off", "-r", str(peer.requirements)]
        subprocess.run([str(python), *install], check=True)
        stamp.write_text(wanted)
    return python


def make(peer: Peer, python: Path, model: Model, tokens: Path, group_size: int, out: Path) -> Made:
    """The peer's checkpoint in OUT/made/<name>, and what it took."""
    folder = out / "made" / peer.name
    told = [tokens.read_text(), peer.script.read_text(), peer.requirements.read_text(), str(group_size), *peer.options]
    inputs = hashlib.sha256("\0".join(told).encode()).hexdigest()
    command = [
        str(python),
        str(peer.script),
        str(model.path.resolve()),
        str(tokens),
        str(group_size),
        str(folder),
        *peer.options,
    ]
    return once(folder.with_suffix(".json"), inputs, command, folder.parent)  # GPTQModel leaves logs where it runs


def settings_of(args: argparse.Namespace) -> list[str]:
    """The options that make the recipe calibrate on as much as was asked for."""
    settings = {"calibration.samples": args.samples, "calibration.max_sequence_length": args.length}
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def diverge(name: str, python: str, model: Model, checkpoint: Path, out: Path) -> None:
    """Compares the next tokens of a checkpoint with the model's, in the environment that made it."""
    text, record = out / "made" / HELD_OUT, out / "made" / f"{name}.divergence.json"
    script = SCRIPTS / "divergence.py"
    if not record.is_file() or record.stat().st_mtime < (checkpoint / "config.json").stat().st_mtime:
        command = [python, str(script), *map(str, (model.path.resolve(), checkpoint, text, record))]
        subprocess.run(command, check=True, env={**os.environ, **QUIET}, cwd=record.parent)


def own(args: argparse.Namespace, model: Model) -> tuple[Made, Path, int]:
    """quantpress's own checkpoint: what it took, the file with its calibration tokens, and its group size.

    Raises SystemExit if the tokens of the file are not those that the manifest says it calibrated on.
    """
    from transformers import AutoTokenizer

    words = ["quantize", RECIPE, *settings_of(args), "--model", args.model, "--out", str(args.out)]
    command = [sys.executable, "-m", "quantpress", *words]
    made = once(args.out / "made" / f"{RECIPE}.json", shlex.join(words), command, Path.cwd())
    if made.exit_code:
        raise SystemExit(f"{shlex.join(command)} failed: see {args.out / 'made' / RECIPE}.log")

    calibration = load_recipe(RECIPE, settings_of(args)[1::2]).calibration
    manifest = artifact_of(args.out, model.name, RECIPE).finished()
    if calibration is None or manifest.calibration is None:
        raise SystemExit(f"{RECIPE} is not calibrated")
    twice = calibration.model_copy(update={"samples": 2 * args.samples})
    both = packed(twice, AutoTokenizer.from_pretrained(str(model.path))).sequences
    sequences, held_out = both[: args.samples], both[args.samples :]
    if hashlib.sha256(numpy.array(sequences, "int64").tobytes()).hexdigest() != manifest.calibration.fingerprint:
        raise SystemExit(f"{RECIPE} was calibrated on other tokens than these: remove {args.out} and start again")
    tokens = args.out / "made" / "tokens.json"
    tokens.write_text(json.dumps(sequences))
    (tokens.parent / HELD_OUT).write_text(json.dumps(held_out))
    config = json.loads((artifact_of(args.out, model.name, RECIPE).checkpoint / "config.json").read_text())
    return made, tokens, config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"]


def quantpress(*words: str, args: argparse.Namespace) -> str | None:
    """Runs a command of quantpress; None, or its error where it failed."""
    command = [sys.executable, "-m", "quantpress", *words, "--model", args.model, "--out", str(args.out)]
    print(shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    return complaint(done) if done.returncode else None


def scored_and_served(name: str, args: argparse.Namespace) -> str | None:
    """Scores a checkpoint and measures it in vLLM; why not, where one of both failed."""
    # One backend for all: without the peers' libraries transformers does not load their formats.
    suite = ["--suite", args.suite, "--backend", "vllm", *(["--limit", args.limit] if args.limit else [])]
    suite += ["--data", args.data] if args.data else []
    settings = settings_of(args) if name == RECIPE else []
    failed = quantpress("evaluate", name, *suite, *settings, args=args)
    if failed or args.without_bench:
        return failed
    return quantpress("bench", name, "--workload", args.workload, *settings, args=args)


def speeds(artifact: Artifact) -> str:
    """How many times as fast as the unquantized model, by load, with the verdict."""
    found = results_of(artifact, Throughput).all()
    if not found:
        return formats.NONE
    points = [(point, point.ratios[point.compared]) for point in speed_of(found[0]).points]
    return "; ".join(
        f"{load_in_words(point.concurrency, point.request_rate)}: {formats.times(ratio)}, {point.verdict}"
        for point, ratio in points
        if isinstance(ratio, Ratio)
    )


def _samples(artifact: Artifact, side: str) -> Path:
    folder = artifact.folder if side == "candidate" else artifact.folder.parent / "baseline"
    return folder / "scores" / _accuracy(artifact).runs[side].folder


def _accuracy(artifact: Artifact) -> Accuracy:
    return results_of(artifact, Accuracy).all()[0]


MADE = ["made by", "weights", "processor s", "peak", "KL of the next token (95%)", f"minus {RECIPE}'s (95%)"]
MADE += ["likeliest token is another (95%)"]
SERVED = ["made by", "KL of the answers", f"minus {RECIPE}'s (95%)", "flips (95%)", "recovery (95%)"]
SERVED += ["speed in vLLM, times the unquantized model's (95%)"]


def as_made(name: str, made: Made, args: argparse.Namespace, model: Model) -> list[str]:
    """What a checkpoint took, its bytes, and how near its next tokens are to the model's."""
    found, reference = (
        Divergence.model_validate(atomic.read_json(args.out / "made" / f"{one}.divergence.json"))
        for one in (name, RECIPE)
    )
    weights = sum(file.stat().st_size for file in checkpoint_of(name, args, model).glob("*.safetensors"))
    return [
        name,
        formats.in_bytes(weights),
        f"{made.processor_seconds:.0f}",
        formats.in_bytes(made.peak_bytes),
        formats.interval(mean(found.kl)),
        "" if name == RECIPE else formats.interval(mean_difference(found.kl, reference.kl), "{:+.3f}"),
        formats.interval(mean(found.flips), "{:.1%}"),
    ]


def as_served(name: str, args: argparse.Namespace, model: Model) -> list[str]:
    """How a checkpoint answers, and how fast."""
    artifact, reference = (artifact_of(args.out, model.name, one) for one in (name, RECIPE))
    near = nearness(_samples(reference, "baseline"), _samples(artifact, "candidate"), _samples(reference, "candidate"))
    apart = Figure(value=near.difference, interval=near.interval)
    overall = score_of(_accuracy(artifact)).overall
    return [
        name,
        f"{near.means[0]:.3f}",
        "" if name == RECIPE else formats.interval(apart, "{:+.3f}"),
        formats.interval(overall.flips, "{:.1%}"),
        formats.interval(overall.recovery),
        speeds(artifact),
    ]


def checkpoint_of(name: str, args: argparse.Namespace, model: Model) -> Path:
    """The checkpoint as its library left it."""
    return artifact_of(args.out, model.name, RECIPE).checkpoint if name == RECIPE else args.out / "made" / name


def page(
    made_rows: list[list[str]], served_rows: list[list[str]], missing: dict[str, str], made: dict[str, Made]
) -> str:
    """The tables, what is not in them and why, and what repeats each checkpoint."""
    about = environment.machine()
    parts = [
        f"{about.processor}, {about.cores} cores, {about.memory_gb} GB, Python {about.python}, "
        f"{time.strftime('%Y-%m-%d')}",
        markdown.table(MADE, made_rows),
        markdown.table(SERVED, served_rows),
        *[f"**{name} is missing**: {reason}" for name, reason in missing.items()],
        *[f"{name}: `{shlex.join(one.command)}` with {', '.join(told_of(one))}" for name, one in made.items()],
    ]
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", default=list(PEERS), help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--model", default=models.EMBEDDED)
    parser.add_argument("--samples", type=int, default=32, help="calibration sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens of each")
    parser.add_argument("--suite", default="commonsense")
    parser.add_argument("--limit", help="documents of each task (default: all)")
    parser.add_argument("--data", help="folder of <task>.jsonl")
    parser.add_argument("--workload", default="chat")
    parser.add_argument("--without-bench", action="store_true", help="accuracy alone")
    parser.add_argument("--envs", type=Path, default=Path(".cache/peers"), help="where the environments are")
    parser.add_argument("--out", type=Path, default=Path("artifacts/peers"))
    args = parser.parse_args()
    args.out, args.envs = args.out.resolve(), args.envs.resolve()
    return args


def main() -> None:
    args = arguments()
    (args.out / "made").mkdir(parents=True, exist_ok=True)
    model = find_model(args.model)

    # First every checkpoint, and how near it is to the model in its own library.
    mine, tokens, group_size = own(args, model)
    made, missing = {RECIPE: mine}, {}
    for peer in (PEERS[name] for name in args.peers):
        made[peer.name] = one = make(peer, environment_of(peer, args.envs), model, tokens, group_size, args.out)
        if one.exit_code:
            missing[peer.name] = f"exit code {one.exit_code}: {last_line(args.out / 'made' / f'{peer.name}.log')}"
    made_rows = []
    for name in [name for name in made if name not in missing]:
        diverge(name, made[name].command[0], model, checkpoint_of(name, args, model), args.out)
        made_rows.append(as_made(name, made[name], args, model))

    # Then what vLLM makes of it.
    for name in [name for name in made if name not in missing]:
        adopting = ("adopt", str(checkpoint_of(name, args, model)), "--as", name)
        reason = None if name == RECIPE else quantpress(*adopting, args=args)
        if reason := reason or scored_and_served(name, args):
            missing[name] = reason
    compared = [] if RECIPE in missing else [name for name in made if name not in missing]
    served_rows = [as_served(name, args, model) for name in compared]
    text = page(made_rows, served_rows, missing, made)
    (args.out / "peers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
