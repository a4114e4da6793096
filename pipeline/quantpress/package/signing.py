"""OpenSSF model signing of a package: a signature over every file, checked with the public key alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from quantpress.artifact import manifest, recertification
from quantpress.errors import CapabilityError, InputError, first_line

SIGNATURE = manifest.SIGNATURE
PASSWORD = "QUANTPRESS_SIGN_PASSWORD"
Signature = Literal["signed", "unsigned", "not checked", "broken"]


def _library() -> Any:
    try:
        import model_signing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise CapabilityError(
            f"signing needs the package model-signing, which is not installed ({first_line(error)})",
            # model-signing 1.1.1 imports pyOpenSSL and does not name it among what it needs.
            hint=f"{sys.executable} -m pip install 'model-signing>=1.1,<2' pyopenssl",
        ) from error
    return model_signing


def check_key(path: Path) -> None:
    """Raises InputError unless `path` is a private key that can sign, CapabilityError without the library."""
    _signer(path)


def _signer(path: Path) -> Any:
    library = _library()
    if not path.is_file():
        raise InputError(
            f"{path}: no such private key", hint="openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"
        )
    config = library.signing.Config()
    try:
        return config.use_elliptic_key_signer(private_key=path, password=_password())
    except (ValueError, TypeError, AttributeError) as error:  # not a key, another kind of key, or one with a password
        raise InputError(
            f"{path} cannot sign: {first_line(error)}",
            hint=f"name an elliptic-curve private key in PEM (P-256, P-384, P-521); its password goes into ${PASSWORD}",
        ) from error


def _password() -> bytes | None:
    return os.environ[PASSWORD].encode() if os.environ.get(PASSWORD) else None


def sign(folder: Path, key: Path) -> None:
    """Writes model.sig, which covers every other file of the folder. Raises InputError or CapabilityError."""
    library, signature = _library(), folder / SIGNATURE
    hashing = library.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    _signer(key).set_hashing_config(hashing).sign(folder, signature)


def problems(folder: Path, public_key: Path, beside: Collection[str] = ()) -> list[str]:
    """What is wrong with the signature; empty if the key's owner signed exactly the files of the folder, less those
    that are known to lie `beside` them.

    Raises InputError if there is no such key.
    """
    library, signature = _library(), folder / SIGNATURE
    if not public_key.is_file():
        raise InputError(f"{public_key}: no such public key", hint="openssl ec -in KEY.pem -pubout -out PUBLIC.pem")
    if not signature.is_file():
        return [f"{SIGNATURE}: missing, the package is not signed"]
    try:
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{public_key} is not a public key: {first_line(error)}", hint="name one in PEM") from error
    try:
        ignored = library.hashing.Config().set_ignored_paths(paths=[SIGNATURE, *sorted(beside)], ignore_git_paths=False)
        config.set_hashing_config(ignored).verify(folder, signature)
    except Exception as error:  # the library and what it builds on raise a dozen classes; all mean "not verified"
        changed = re.findall(r"Hash mismatch for \\?[\"']([^\"'\\]+)", str(error))  # beside them stand raw digests
        return [f"{SIGNATURE}: not signed like this: {', '.join(changed)}" if changed else _failed(error)]
    return []


def recertified(folder: Path, public_key: Path | None) -> tuple[list[str], Signature]:
    """What is wrong with the recertification in a folder, and what its signature says, as build.verified says it of a
    package. Raises InputError if there is no such key."""
    wrong = recertification.problems(folder)
    is_signed = (folder / SIGNATURE).is_file()
    if public_key is None:
        return wrong, "not checked" if is_signed else "unsigned"
    wrong += problems(folder, public_key)
    return wrong, ("broken" if wrong else "signed") if is_signed else "unsigned"


def _failed(error: Exception) -> str:
    return f"{SIGNATURE}: the signature does not hold ({type(error).__name__}: {first_line(error)[:200]})"
