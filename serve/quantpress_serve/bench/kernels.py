"""Whether vLLM serves a checkpoint with the kernels that the plan counts on, as its log says."""

from __future__ import annotations

from quantpress.artifact.throughput import CANDIDATE, KernelUse
from quantpress.errors import CapabilityError
from quantpress.plan import kernels
from quantpress.runtime import console
from quantpress_serve.bench.subject import Subject
from quantpress_serve.server.server import Server


def looked_at(subject: Subject, servers: dict[str, Server]) -> list[KernelUse] | None:
    """What became of each kind of layer in the candidate's server; None where nothing was planned for this machine.

    Says which are not as planned. Raises CapabilityError for those where the planned ones are required.
    """
    if subject.kernels is None:
        return None
    found = kernels.held_against(subject.kernels, servers[CANDIDATE].facts.kernels)
    if subject.require_kernels:
        require(found, subject.name)
    for use in found:
        if use.others:
            console.warn(use.sentence)
    return found


def require(found: list[KernelUse], name: str) -> None:
    """Raises CapabilityError unless every kernel that the plan names is the one that serves; says what is not known."""
    wrong = [use.sentence for use in found if use.planned and (use.others or not use.served)]
    if wrong:
        raise CapabilityError(
            f"{name} is not served by the kernels that were planned: {'; '.join(wrong)}",
            hint="quantpress plan RECIPE shows what is planned; without --require-kernels it is measured all the same",
        )
    if unnamed := [use.kind for use in found if not use.planned]:
        console.say(f"  vLLM does not say which kernel serves {', '.join(unnamed)}: that is not checked")
