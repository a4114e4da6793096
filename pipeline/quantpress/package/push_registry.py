"""A package as an OCI artifact (oras), credentials as `docker login` left them. The manifest is sent last by nature."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError, InputError, StageError, first_line, shown
from quantpress.package import push
from quantpress.package.push import Tagged, Upload
from quantpress.runtime import console

_PLACE = re.compile(r"^[a-zA-Z0-9.-]+(:\d+)?/[a-z0-9]+([._/-]+[a-z0-9]+)*:[\w][\w.-]{0,127}$")
_EMPTY = "application/vnd.oci.empty.v1+json"
_FILE = "application/octet-stream"
# What a tag may name; a registry says that it has none of a kind that is not asked for.
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ARTIFACT = "application/vnd.quantpress.package.v1"


def send(upload: Upload, place: str, public: bool) -> Tagged:
    """Sends each file as a blob under its own name, unless the registry has it, then the manifest under the tag."""
    push.library("oras", "oras>=0.2.38")
    import oras.oci
    from requests import RequestException

    if public:
        raise InputError("--public is for the Hugging Face hub", hint="set the repository's visibility instead")
    if not _PLACE.match(place):
        raise InputError(f"oci://{place} is not a reference", hint="oci://registry/repository:tag, in lower case")
    try:
        registry = _registry(place)
        container = registry.get_container(place)
        registry.auth.load_configs(container)
        _require_own_tag(registry, container, place)
        manifest = oras.oci.NewManifest()
        sent: list[str] = []
        kept: list[str] = []
        manifest["artifactType"] = ARTIFACT
        manifest["annotations"] = {"org.opencontainers.image.title": upload.about.name}
        for name, digest in upload.files.items():
            path = upload.folder / name
            layer = _layer(_FILE, path.stat().st_size, digest)
            layer["annotations"] = {"org.opencontainers.image.title": name}
            manifest["layers"].append(layer)
            (kept if _was_there(registry, container, path, layer) else sent).append(name)
        manifest["config"] = _empty_config(registry, container)
        response = registry.upload_manifest(manifest, container)
        _require_taken(response, "the manifest")
    except (RequestException, ValueError, OSError) as error:
        raise push.broken_off(error) from error
    digest = response.headers.get("Docker-Content-Digest")
    return Tagged(destination=upload.destination, sent=sent, already_there=kept, digest=digest)


def _require_own_tag(registry: Any, container: Any, place: str) -> None:
    """Raises InputError if the tag names something that is no package: it would no longer be found."""
    url = f"{registry.prefix}://{container.manifest_url()}"
    found = registry.do_request(url, "GET", headers={"Accept": ", ".join(_MANIFESTS)})
    try:
        kind = found.json().get("artifactType") if found.status_code == 200 else ARTIFACT
    except (ValueError, AttributeError):
        kind = None
    if kind != ARTIFACT:
        raise InputError(
            f"oci://{place} is the tag of something that is no package: {shown(kind)}", hint="push to another tag"
        )


def _registry(place: str) -> Any:
    """A client. As docker does, a registry on this machine is spoken to without TLS."""
    from oras.provider import Registry  # before the decorator: oras imports itself in a circle

    from oras.decorator import retry  # isort: skip

    class Streaming(Registry):  # type: ignore[misc]
        """oras 0.2 reads a whole blob into memory before it sends it; weights come in files of gigabytes.

        It also tries each request six times within two minutes, which a stream that is half read cannot do: here a
        blob is tried from its start, three times within six seconds.
        """

        do_request = Registry.do_request.__wrapped__

        @retry(attempts=2, timeout=1)  # type: ignore[untyped-decorator]
        def put_upload(self, blob: str, container: Any, layer: dict[str, Any]) -> Any:
            started = self.do_request(f"{self.prefix}://{container.upload_blob_url()}", "POST")
            session = self._get_location(started, container)
            if not session:
                raise ValueError(f"no upload was opened ({started.status_code} {started.reason})")
            url = f"{session}{'&' if '?' in session else '?'}digest={layer['digest']}"
            headers = {"Content-Length": str(layer["size"]), "Content-Type": _FILE}
            with Path(blob).open("rb") as stream:
                return self.do_request(url, "PUT", data=stream, headers=headers)

    host = place.partition("/")[0].partition(":")[0]
    return Streaming(insecure=host in ("localhost", "127.0.0.1"))


def _layer(kind: str, size: int, sha256: str) -> dict[str, Any]:
    return {"mediaType": kind, "size": size, "digest": f"sha256:{sha256}"}


def _was_there(registry: Any, container: Any, path: Path, layer: dict[str, Any]) -> bool:
    """Sends a blob unless the registry has it; whether it had it."""
    if registry.blob_exists(layer, container):
        return True
    with console.step(f"sending {path.name} ({layer['size'] / 1e6:.1f} MB)"):
        _require_taken(registry.put_upload(str(path), container, layer), path.name)
    return False


def _empty_config(registry: Any, container: Any) -> dict[str, Any]:
    """The empty configuration that artifacts have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({}))
        layer = _layer(_EMPTY, 2, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
        _was_there(registry, container, path, layer)
    return layer


def _require_taken(response: Any, what: str) -> None:
    """Raises unless the registry took it."""
    if response.status_code in (401, 403):
        raise CapabilityError(
            f"the registry does not let {what} in ({response.status_code})", hint="docker login REGISTRY first"
        )
    if response.status_code not in (200, 201, 202):
        raise StageError(
            f"the registry refused {what}: {response.status_code} {first_line(Exception(response.text))[:200]}; "
            "nothing was published",
            hint=push.AGAIN,
        )
