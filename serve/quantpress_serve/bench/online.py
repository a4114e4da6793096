"""The model quantized by vLLM while it loads, measured as a checkpoint is: what costs nothing must be beaten."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact import online
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Throughput
from quantpress.errors import CapabilityError, InputError, enumerated, nearest
from quantpress.model.source import Model
from quantpress.runtime import digests
from quantpress_serve.bench import stage
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.probes import asking
from quantpress_serve.vllm import vllm_version
from quantpress_serve.workload.workload import Workload


def require_method(method: str, vllm: Path) -> None:
    """Raises InputError for a name by which the installed vLLM quantizes nothing while it loads, and CapabilityError
    for one that it does not compute on this machine, or if it cannot be asked."""
    known, version = asking.online(vllm), vllm_version(vllm)
    if not known:
        raise CapabilityError(
            f"--online {method}: vLLM {version} names nothing by which it quantizes while it loads",
            hint="leave out --online, or name a newer vLLM with --vllm",
        )
    if method not in known:
        raise InputError(
            f"--online {method}: not a name by which vLLM {version} quantizes while it loads; {nearest(method, known)}",
            hint=f"such names are {enumerated(sorted(known))}",
        )
    if reason := known[method].reason:
        able = [name for name, one in known.items() if one.linear and not one.reason]
        raise CapabilityError(
            f"--online {method}: vLLM {version} does not compute it on this machine ({reason})",
            hint=f"here it computes {enumerated(able)}" if able else "leave out --online",
        )
    if not known[method].linear:
        raise CapabilityError(
            f"--online {method}: vLLM {version} quantizes nothing but experts by it, and experts were not tried here",
            hint="name a method that quantizes linear layers",
        )


def bench(method: str, model: Model, load: Workload, sides: Sides, out: Path, fresh: bool) -> Throughput:
    """Measures the model, quantized while it loads, beside itself and writes throughput.json, as stage.bench does.

    Raises what stage.measure raises.
    """
    seen = digests.seen(model.deciding_files())
    digest = model.identity().digest
    size = sum(path.stat().st_size for path in model.path.glob("*.safetensors"))
    subject = Subject(
        name=online.name_of(method),
        folder=online.folder_of(out / model.name, method),
        digest=online.digest_of(digest, method),
        candidate=model.path,
        model=model,
        model_digest=digest,
        weight_bytes={CANDIDATE: size, BASELINE: size},
        online=method,
        untruthful=f"transformers does not quantize by {method} while it loads",
        seen={CANDIDATE: seen, BASELINE: seen},
    )
    return stage.measure(subject, load, sides, fresh)
