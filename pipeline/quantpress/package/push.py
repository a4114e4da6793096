"""Uploading a package: checked first, sent file by file, published by its last step alone."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError, first_line
from quantpress.package import build, signing
from quantpress.package.build import Package
from quantpress.runtime import console, digests
from quantpress.runtime.records import Record
from quantpress.runtime.secrets import without_secrets

_DESTINATION = re.compile(r"^(?P<scheme>hf|s3|oci)://(?P<place>[^\s?#]+?)/*$")
_HINT = "s3://bucket/prefix, hf://org/name, or oci://registry/repository:tag"
AGAIN = "run the same command again: what arrived is not sent twice"


# The module of each kind of destination, by its scheme.
_SENDERS = {"hf": "push_hub", "s3": "push_bucket", "oci": "push_registry"}


@dataclass(frozen=True)
class Upload:
    """A checked package and where it goes. `files` are its relative names with their sha256, the manifest last."""

    folder: Path
    about: Package
    files: dict[str, str]
    destination: str


class Pushed(Record):
    """What came of an upload."""

    destination: str

    @property
    def summary(self) -> str:
        """In a few words, for people."""
        raise NotImplementedError


class Committed(Pushed):
    """On the hub: the commit, whole, and its page."""

    commit: str
    url: str

    @property
    def summary(self) -> str:
        return f"commit {self.commit}"


class Sent(Pushed):
    """In a store of files: the relative names of those that were sent and of those that were there already."""

    sent: list[str]
    already_there: list[str]

    @property
    def summary(self) -> str:
        return f"{len(self.sent)} files sent, {len(self.already_there)} were there already"


class Tagged(Sent):
    """In a registry: the digest of the manifest that the tag now names, if the registry says it."""

    digest: str | None


def push(folder: Path, destination: str, public: bool) -> Pushed:
    """Uploads a package and returns what was sent and what was there already.

    Raises InputError for a wrong destination or a folder that is no package, StageError if the package is not as
    made or the upload breaks off, CapabilityError if a library or the right to write there is missing.
    """
    found = _DESTINATION.match(destination)
    if not found or "@" in found["place"].partition("/")[0]:
        raise InputError("that is not a destination, or it has a user name in it", hint=_HINT)
    send = importlib.import_module(f"quantpress.package.{_SENDERS[found['scheme']]}").send
    upload = _checked(folder, destination)
    try:
        done: Pushed = send(upload, found["place"], public)
    except QuantpressError as error:
        raise type(error)(without_secrets(error.message), hint=error.hint) from error
    return done


def _checked(folder: Path, destination: str) -> Upload:
    """The package with the digests of all its files. Raises InputError or StageError for one that is not sound."""
    if not build.is_package(folder):
        raise InputError(f"{folder} is not a package", hint="quantpress package RECIPE makes one")
    with console.step(f"checking {folder}"):
        problems = build.verify(folder)
    about = build.package_in(folder)
    if problems or about is None:
        raise StageError(
            f"{folder} is not what was packaged: {'; '.join(problems[:3])}",
            hint="quantpress package RECIPE makes it again",
        )
    known = {name: file.sha256 for name, file in about.files.items()}
    last = [signing.SIGNATURE] if (folder / signing.SIGNATURE).is_file() else []
    for name in [*last, build.MANIFEST]:
        known[name] = digests.sha256_file(folder / name)
    return Upload(folder, about, known, destination)


def library(name: str, requirement: str) -> Any:
    """An optional library. Raises CapabilityError naming the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(
            f"this destination needs the package {requirement.partition('>')[0]}, which is not installed",
            hint=f"{sys.executable} -m pip install '{requirement}'",
        ) from error


def broken_off(error: BaseException) -> StageError:
    """What to raise for an upload that did not come to its end."""
    return StageError(f"the upload broke off: {first_line(error)[:300]}; nothing was published", hint=AGAIN)
