"""`quantpress adopt`: take a checkpoint that was made elsewhere as a candidate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quantpress.cli.options import MODEL, Commands, add_engine, add_flags, add_out, add_trust, add_vllm
from quantpress.errors import CapabilityError


@dataclass(frozen=True)
class Options:
    source: str
    name: str
    model: str | None
    out: Path
    target: str | None
    vllm: str | None
    engine: list[str]
    trust_workload: list[str]
    dequantize: bool
    trust_remote_code: bool


def add(commands: Commands) -> None:
    text = "take a checkpoint that was made elsewhere as a candidate"
    parser = commands.add_parser("adopt", help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("source", metavar="SOURCE", help="a folder, org/name[@revision] or a .gguf file; left as it is")
    parser.add_argument(
        "--as", dest="name", required=True, metavar="NAME", help="what it is called where recipes are called by names"
    )
    parser.add_argument(
        "--model", metavar="BASE", help="the model that it was made from: " + MODEL + " (default: what its card names)"
    )
    parser.add_argument(
        "--target",
        choices=("auto", "any"),
        help="auto: this machine, whose vLLM has to serve it; any: vLLM is not asked (default: $QUANTPRESS_TARGET, or "
        "auto)",
    )
    add_out(parser)
    add_vllm(parser)
    add_engine(parser)
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="adopt the 16 bits that its weights are (a GGUF file, compressed-tensors, FP8, MXFP4): the accuracy is "
        "then the format's, size and speed are not",
    )
    add_trust(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.adopt import source, stage
    from quantpress.adopt.loaded import loaded
    from quantpress.artifact.manifest import artifact_of
    from quantpress.model.source import find_model
    from quantpress.runtime import console, disk
    from quantpress_serve.server import fit, trial
    from quantpress_serve.vllm import find_vllm, vllm_version
    from quantpress_serve.workload.engines import load_engine

    stage.require_name(options.name)
    disk.require_writable(options.out)
    engine = load_engine(options.engine, options.trust_workload)
    here = (options.target or os.environ.get("QUANTPRESS_TARGET") or "auto") == "auto"
    vllm = find_vllm(options.vllm) if here else None
    if not options.dequantize:
        _require_taken(options, vllm)
    found = source.find(options.source, options.trust_remote_code, options.dequantize)
    # --dequantize speaks of the checkpoint; of some models there is no other base than a quantized one.
    base = find_model(options.model or found.base(), options.trust_remote_code, dequantize=None)
    candidate, described = found.candidate, found.described(base)
    console.say(f"  {options.source}: {described.words}")
    artifact = artifact_of(options.out, base.name, options.name)

    def served(vllm: Path) -> str:
        fitted = fit.alone(engine, loaded(candidate.headers(), base.headers()), base.config)
        fit.say(fitted)
        log = artifact.folder.parent / "logs" / f"{artifact.name}.adopt.log"
        return trial.require_served(candidate, artifact.name, vllm, fitted.engine, log)

    tried = partial(served, vllm) if vllm else None
    version = vllm_version(vllm) if vllm else None
    made = stage.adopt(stage.Adoption(artifact, candidate, base, described, tried, version))
    console.show(made.as_saved(), f"{artifact.checkpoint}: {described.words}; compared with {base.name}")


def _require_taken(options: Options, vllm: Path | None) -> None:
    """Raises CapabilityError for what the vLLM here does not take as it is, before any weight is fetched or read."""
    from quantpress.adopt import source
    from quantpress.model import hub
    from quantpress_serve.probes import asking

    named, trust = Path(options.source), options.trust_remote_code
    if vllm and named.is_dir():
        asking.require_taken(named.resolve(), vllm, trust)
    elif vllm and not named.exists() and hub.is_on_the_hub(options.source):
        asking.require_taken(hub.without_weights(options.source, trust), vllm, trust)
    elif source.is_gguf(options.source):
        if vllm:
            asking.require_taken(named.resolve(), vllm, trust)
        raise CapabilityError(
            f"{options.source}: quantpress serves no GGUF file as it is",
            hint="--dequantize adopts the 16 bits that its weights are",
        )
