"""A package in a bucket (boto3; AWS_ENDPOINT_URL for other stores than Amazon's). The manifest is written last."""

from __future__ import annotations

from typing import Any

from quantpress.errors import CapabilityError, InputError, QuantpressError, first_line
from quantpress.package import build, push
from quantpress.package.push import Sent, Upload
from quantpress.runtime import console

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403", "401"}


def send(upload: Upload, place: str, public: bool) -> Sent:
    """Sends every file that is not there with the same digest, then the manifest, whose presence means published.

    Raises InputError if something else lies below the prefix: a server that loads the prefix would load that too.
    """
    boto3 = push.library("boto3", "boto3>=1.40")
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    if public:
        raise InputError("--public is for the Hugging Face hub", hint="set the bucket's policy instead")
    bucket, _, prefix = place.partition("/")
    try:
        return _send(_client(boto3), upload, bucket, f"{prefix}/" if prefix else "")
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise explained(error, bucket) from error


def _client(boto3: Any) -> Any:
    try:
        return boto3.client("s3")
    except ValueError as error:  # of an address without a scheme
        hint = "AWS_ENDPOINT_URL is the store's whole address: http://minio:9000, say"
        raise InputError(first_line(error), hint=hint) from error


def _send(client: Any, upload: Upload, bucket: str, prefix: str) -> Sent:
    there = _sizes(client, bucket, prefix)
    _require_own(client, upload, bucket, prefix, there)
    sent, kept = [], []
    for name, digest in upload.files.items():
        path, key = upload.folder / name, f"{prefix}{name}"
        if there.get(name) == path.stat().st_size and _digest(client, bucket, key) == digest:
            kept.append(name)
            continue
        with console.step(f"sending {name} ({path.stat().st_size / 1e6:.1f} MB)"):
            client.upload_file(str(path), bucket, key, ExtraArgs={"Metadata": {"sha256": digest}})
        sent.append(name)
    return Sent(destination=upload.destination, sent=sent, already_there=kept)


def _sizes(client: Any, bucket: str, prefix: str) -> dict[str, int]:
    """Names below the prefix with their sizes in bytes; without the empty objects by which consoles mark a folder."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    entries = (entry for page in pages for entry in page.get("Contents", []))
    return {
        entry["Key"][len(prefix) :]: entry["Size"]
        for entry in entries
        if entry["Size"] or not entry["Key"].endswith("/")
    }


def _digest(client: Any, bucket: str, key: str) -> str | None:
    """The sha256 that was stored with an object when it was sent whole."""
    found = client.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256")
    return str(found) if found else None


def _require_own(client: Any, upload: Upload, bucket: str, prefix: str, there: dict[str, int]) -> None:
    where = f"s3://{bucket}/{prefix}"
    published = build.MANIFEST in there and _digest(client, bucket, prefix + build.MANIFEST)
    if published is not False and published != upload.files[build.MANIFEST]:
        raise InputError(
            f"{where} holds another package already; replacing it file by file would break whoever loads it",
            hint="push to another prefix, for example one that ends in a version",
        )
    foreign = sorted(there.keys() - upload.files.keys())
    if foreign:
        raise InputError(
            f"{where} holds files that are not of this package: {', '.join(foreign[:3])}",
            hint="push to another prefix, or remove them",
        )


def explained(error: Exception, bucket: str) -> QuantpressError:
    name = type(error).__name__
    # boto3's upload_file raises an error of its own, without the answer that it was given.
    answer = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
    code = str(answer.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return InputError(f"there is no bucket {bucket!r}", hint="create it, or name another")
    if code in _DENIED or name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return CapabilityError(
            f"s3://{bucket} may not be used: {first_line(error)[:200]}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if name in ("NoRegionError", "ParamValidationError", "InvalidRegionError"):
        return InputError(
            f"s3://{bucket} cannot be used: {first_line(error)[:200]}", hint="see the destination's spelling"
        )
    return push.broken_off(error)
