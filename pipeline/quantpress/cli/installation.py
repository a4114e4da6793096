"""What is installed for the main job, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from quantpress.runtime.records import Record

# What extras are for; without them the main job runs.
EXTRAS = {
    "mlflow": "reports in MLflow (report --mlflow)",
    "push": "uploads to s3:// and oci:// (push)",
    "sbom": "a list of what a package was made with (package --sbom)",
    "sign": "signatures (package --sign-key, verify --public-key)",
}


class Problem(Record):
    """Something that is not as it should be, what mends it, and whether the main job runs all the same."""

    what: str
    command: str
    blocks: bool


def packages() -> tuple[dict[str, str], list[Problem]]:
    """Versions of what quantpress needs in its own environment, and what of it is missing or of another version."""
    found, problems = {}, []
    for needed in _requirements():
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        version = _version(needed.name)
        if version is None:
            problems.append(Problem(what=f"{needed.name} is not installed", command="make setup", blocks=True))
            continue
        found[needed.name] = version
        if not needed.specifier.contains(version, prereleases=True):
            what = f"{needed.name} {version} is installed, quantpress is written for {needed.specifier}"
            problems.append(Problem(what=what, command="make setup", blocks=False))
    return found, problems


def extras() -> list[Problem]:
    """The extras that are not installed."""
    missing = []
    for extra, what_for in EXTRAS.items():
        needed = [one for one in _requirements() if one.marker and one.marker.evaluate({"extra": extra})]
        if absent := [one.name for one in needed if _version(one.name) is None]:
            what = f"for {what_for}: {', '.join(absent)} not installed"
            command = f".venv/bin/python -m pip install 'quantpress[{extra}]'"
            missing.append(Problem(what=what, command=command, blocks=False))
    return missing


def _requirements() -> list[Requirement]:
    """What pyproject.toml asks for; of a copy that was never installed nothing is known."""
    try:
        return [Requirement(line) for line in importlib.metadata.requires("quantpress") or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
