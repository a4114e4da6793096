"""Served = scored: log-likelihoods of a fixed text by the engine that serves and by the backend that scored, compared.

Engines are not equal: a kernel may saturate, round elsewhere or leave a rotation out. A score by transformers says
nothing of an engine that computes something else, and nothing in the score would show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from quantpress.artifact.served import DIFFERS, SAME, Served, Side
from quantpress.artifact.throughput import BASELINE, CANDIDATE
from quantpress.errors import StageError
from quantpress.model.config import positions
from quantpress.runtime import atomic, console, digests, environment
from quantpress.statistics.conventions import CONFIDENCE
from quantpress_serve.bench.workers import LIKELIHOODS, LikelihoodJob, Likelihoods, Row, ScoredModel
from quantpress_serve.server import client
from quantpress_serve.server.server import Server

TEXT = Path(__file__).with_name("likelihood_text.txt")
WINDOW = 256  # tokens that are seen together, at most
BLOCK = 64  # tokens; neighbouring differences are not independent, means of blocks nearly are
# Nats a token. The mean loss may differ by this and by what the unquantized model differs itself.
BOUND = 0.01
# Nats a token, in the mean of absolute differences, by which rounding to 16 bits sets an unquantized model apart at
# most: 0.08 was seen of the families (docs/reference/models.md), and 0.16 and more where the engine was wrong.
# The mean loss alone would not show an engine that is wrong both ways alike, as with a model that predicts little.
APART = 0.1
# Nats a token that a checkpoint may lose against its model before it is called broken. Sound checkpoints of 4 bits lost
# 0.1 to 0.3; a uniform guess over 50 000 tokens loses about 7.
BROKEN = 1.0


@dataclass(frozen=True)
class Scored:
    """A model's folder, what names its content, and the folder that keeps its likelihoods.

    `seen` are its files as they were before the digest was taken.
    """

    path: Path
    digest: str
    keeps: Path
    trust_remote_code: bool
    seen: digests.Seen = field(default_factory=dict)

    @property
    def window(self) -> int:
        """Tokens of a window: fewer for a model that was made for fewer."""
        longest = positions(atomic.read_json(self.path / "config.json"))
        return min(WINDOW, longest - 1) if longest else WINDOW

    def place(self, compute_dtype: str) -> Path:
        """The file for what transformers computes in this type."""
        versions = environment.versions(("torch", "transformers", "compressed-tensors"))
        key = [self.digest, digests.sha256_file(TEXT), self.window, compute_dtype, versions]
        return self.keeps / "likelihoods" / f"{digests.sha256_json(key)[:12]}.json"

    def place_served(self, vllm: str) -> Path:
        """The file for what a vLLM of this version computes."""
        key = [self.digest, digests.sha256_file(TEXT), self.window, "served", vllm]
        return self.keeps / "likelihoods" / f"{digests.sha256_json(key)[:12]}.json"

    def keep(self, compute_dtype: str, found: Likelihoods) -> None:
        digests.require_unchanged(self.seen)
        _keep(self.place(compute_dtype), found)

    def keep_served(self, vllm: str, found: Likelihoods) -> None:
        _keep(self.place_served(vllm), found)

    def kept(self, compute_dtype: str) -> Likelihoods | None:
        """What `keep` wrote; None where there is nothing, or a damaged file, which is said."""
        return _kept(self.place(compute_dtype))

    def kept_served(self, vllm: str) -> Likelihoods | None:
        """What `keep_served` wrote, likewise."""
        return _kept(self.place_served(vllm))


def _keep(place: Path, found: Likelihoods) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(place, found.dump())


def _kept(place: Path) -> Likelihoods | None:
    if not place.is_file():
        return None
    try:
        return Likelihoods.model_validate(atomic.read_json(place))
    except (StageError, ValidationError):
        console.say(f"  {place} is damaged: what it kept is computed anew")
        return None


def by_transformers(models: dict[str, Scored], compute_dtype: str, log: Path) -> dict[str, Likelihoods]:
    """The likelihoods of each model, by role; computed only where they are not kept. Raises StageError."""
    known = {role: scored.kept(compute_dtype) for role, scored in models.items()}
    missing = {role: models[role] for role, kept in known.items() if kept is None}
    if missing:
        job = LikelihoodJob(
            models={
                role: ScoredModel(
                    path=scored.path.resolve(), trust_remote_code=scored.trust_remote_code, window=scored.window
                )
                for role, scored in missing.items()
            },
            compute_dtype=compute_dtype,
            device="cuda" if environment.gpus() else "cpu",
        )
        first = next(iter(missing.values()))
        first.keeps.mkdir(parents=True, exist_ok=True)
        with atomic.staging(first.keeps / "likelihoods-job") as staged:
            title = f"likelihoods of a fixed text by transformers ({', '.join(missing)})"
            found = LIKELIHOODS.run(job, staged, title, log)
        for role, scored in missing.items():
            scored.keep(compute_dtype, found.models[role])
        known |= found.models
    return {role: kept for role, kept in known.items() if kept is not None}


def by_server(role: str, server: Server, scored: Likelihoods) -> list[Row] | str:
    """What a server computes for the same tokens, or why it gives no likelihoods, which is no failure.

    Raises ServerLost for one that went away over it.
    """
    with console.step(f"likelihoods of a fixed text by the {role}'s server"):
        try:
            return [_of_window(server, tokens) for tokens in scored.windows]
        except (OSError, ValueError, LookupError, TypeError) as error:
            server.require_healthy()
            return f"the {role}'s server gave no likelihoods: {_why(error)}"


def _of_window(server: Server, tokens: list[int]) -> Row:
    body = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 0, "echo": True}
    given = server.ask("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
    row = given[1 : len(tokens)]  # the first has none, and the last is of a token that was generated
    if len(row) != len(tokens) - 1 or not all(isinstance(value, int | float) for value in row):
        raise ValueError("it gives no likelihoods of prompts")
    return [float(value) for value in row]


def _why(error: Exception) -> str:
    if isinstance(error, client.BadStatus):
        return error.whole
    return str(error) if isinstance(error, OSError | ValueError) else "its answers hold none of prompts"


def unknown(reason: str) -> Served:
    """A comparison that could not be made."""
    return Served(verdict=None, reason=reason, cause=None)


# What stands beside the candidate: another computation that is not the transformers'.
UNQUANTIZED = "the engine does not compute the unquantized model as transformers does either"
ENGINE_ON_RECORD = "the engine on record does not compute the checkpoint as transformers does either"


def compared(
    scored: dict[str, list[Row]],
    served: dict[str, list[Row]],
    cause: str | None,
    baseline: str = UNQUANTIZED,
    apart: float = APART,
) -> Served:
    """Each side's mean log-likelihood (nats a token) as scored and as served, and whether the engine computes the same.

    It does not if the whole 95% interval of the candidate's mean difference lies beyond the bound: BOUND and what the
    unquantized model differs itself; nor if the unquantized model's own interval lies beyond twice BOUND, or its tokens
    are `apart` from what was scored, in the mean of absolute differences. The interval is Student's t over the means of
    blocks of BLOCK tokens, since neighbouring tokens are not independent (the method of batch means: Law, Simulation
    Modeling and Analysis, section 9.5.3). `baseline` says what it means if the other side differs: UNQUANTIZED, or
    ENGINE_ON_RECORD where that is the same checkpoint on another engine.
    """
    sides = {role: side(scored[role], served[role]) for role in served}
    own, base = sides[CANDIDATE], sides.get(BASELINE)
    bound = BOUND + (abs(base.difference or 0.0) if base else 0.0)
    anyway = False
    if base and beyond(base.interval, 2 * BOUND):
        anyway, cause = True, baseline
    elif base and base.per_token is not None and base.per_token > apart:
        far = f"its tokens are {base.per_token:.3f} nats apart in the mean, and rounding makes {apart} at most"
        anyway, cause = True, f"{baseline}: {far}"
    differs = anyway or beyond(own.interval, bound)
    return Served(
        verdict=DIFFERS if differs else SAME,
        reason=None,
        bound=bound,
        confidence=CONFIDENCE,
        tokens=own.tokens,
        sides=sides,
        cause=(cause or "not known; score with --backend vllm, which asks the engine itself") if differs else None,
    )


def beyond(interval: tuple[float, float] | None, bound: float) -> bool:
    """Whether all of it is further from 0 than the bound, on one side; true for what is not finite."""
    return interval is None or interval[1] < -bound or interval[0] > bound


def side(scored: list[Row], served: list[Row]) -> Side:
    """Means over all tokens, None where one is not finite."""
    pairs = [(a, b) for one, other in zip(scored, served, strict=True) for a, b in zip(one, other, strict=True)]
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    complete = len(differences) == len(pairs)
    return Side(
        tokens=len(pairs),
        scored=_mean([a for a, _ in pairs]),
        served=_mean([b for _, b in pairs]),
        difference=_mean(differences) if complete else None,
        per_token=_mean([abs(difference) for difference in differences]) if complete else None,
        interval=_interval(differences) if complete else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _interval(differences: list[float]) -> tuple[float, float]:
    from scipy import stats  # 0.5 s: only when there is something to compare

    blocks = [differences[start : start + BLOCK] for start in range(0, len(differences), BLOCK)]
    means = [math.fsum(block) / len(block) for block in blocks if len(block) == BLOCK]
    middle = math.fsum(differences) / len(differences)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(means) - 1) * stats.sem(means))
    return middle - half, middle + half


def to_blame(served: Served) -> str | None:
    """Who makes the candidate talk nonsense: "checkpoint", "engine", "neither", or None where it cannot be told."""
    if served.verdict is None or BASELINE not in served.sides:
        return None
    own, base = served.sides[CANDIDATE], served.sides[BASELINE]
    if not _near(own.scored, base.scored):
        return "checkpoint"
    return "neither" if _near(own.served, base.served) else "engine"


def _near(own: float | None, base: float | None) -> bool:
    return own is not None and base is not None and own > base - BROKEN


def sentence(served: Served) -> str:
    """The comparison for people."""
    if served.verdict is None:
        return f"whether the engine computes what is scored is not known: {served.reason}"
    own = served.sides[CANDIDATE]
    if own.interval is None:
        figures = "likelihoods that are not finite"
    else:
        low, high = own.interval
        figures = (
            f"mean log-likelihood of {own.tokens} tokens {own.served:.3f} as served and {own.scored:.3f} as "
            f"scored (difference {own.difference:+.3f}, {low:+.3f} to {high:+.3f}; bound {served.bound:.3f})"
        )
    if served.verdict == SAME:
        return f"the engine computes what is scored: {figures}"
    return f"the engine does not compute what was scored: {figures}; likely cause: {served.cause}"
