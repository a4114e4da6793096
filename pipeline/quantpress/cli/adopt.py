"""`quantpress adopt`: take a checkpoint that was made elsewhere as a candidate."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.options import MODEL, Commands, add_engine, add_flags, add_out, add_trust, add_vllm
from quantpress.errors import InputError

if TYPE_CHECKING:
    from quantpress.model.source import Model


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
    trust_remote_code: bool


def add(commands: Commands) -> None:
    text = "take a checkpoint that was made elsewhere as a candidate"
    parser = commands.add_parser("adopt", help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("source", metavar="SOURCE", help="a folder, or org/name[@revision]; it is left as it is")
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
    add_trust(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.adopt import description, stage
    from quantpress.adopt.loaded import loaded
    from quantpress.artifact.manifest import artifact_of
    from quantpress.model.source import find_model, located
    from quantpress.runtime import console
    from quantpress_serve.server import fit, trial
    from quantpress_serve.vllm import find_vllm
    from quantpress_serve.workload.engines import load_engine

    stage.require_name(options.name)
    engine = load_engine(options.engine, options.trust_workload)
    asked = (options.target or os.environ.get("QUANTPRESS_TARGET")) != "any"
    vllm = find_vllm(options.vllm) if asked else None
    candidate = replace(located(options.source, options.trust_remote_code), trust_remote_code=options.trust_remote_code)
    base = find_model(options.model or _base_of(candidate), options.trust_remote_code)
    found = description.described(candidate, base)
    console.say(f"  {candidate.name}: {found.words}")
    artifact = artifact_of(options.out, base.name, options.name)

    def tried() -> str | None:
        if vllm is None:
            return None
        fitted = fit.alone(engine, loaded(candidate.headers(), base.headers()), base.config)
        fit.say(fitted)
        log = artifact.folder.parent / "logs" / f"{artifact.name}.adopt.log"
        return trial.require_served(candidate, artifact.name, vllm, fitted.engine, log)

    made = stage.adopt(stage.Adoption(artifact, candidate, base, found, tried))
    console.show(made.as_saved(), f"{artifact.checkpoint}: {found.words}; compared with {base.name}")


def _base_of(candidate: Model) -> str:
    """The model that its card names. Raises InputError where it names none."""
    raise InputError(
        f"{candidate.source} does not say which model it was made from", hint="name it: --model /path/to/the/model"
    )
