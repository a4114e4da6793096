"""sbom.cdx.json of a package: what its checkpoint was made of and with, in CycloneDX, for scanners.

https://cyclonedx.org/docs/1.6/json; the library writes it, and nothing in it depends on when the package was made.
"""

from __future__ import annotations

import sys
import uuid
from datetime import datetime

from quantpress.artifact.manifest import Manifest
from quantpress.artifact.throughput import Throughput
from quantpress.errors import CapabilityError, first_line

SBOM = "sbom.cdx.json"


def require_library() -> None:
    """Raises CapabilityError without the library."""
    try:
        import cyclonedx.output.json  # noqa: F401
    except ImportError as error:
        raise CapabilityError(
            f"--sbom needs the package cyclonedx-python-lib, which is not installed ({first_line(error)})",
            hint=f"{sys.executable} -m pip install 'cyclonedx-python-lib>=11'",
        ) from error


def written(name: str, made: Manifest, license: str | None, throughput: Throughput | None) -> str:
    """The text of the file: the package, the model that it was made of, and the libraries that made and served it."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    kind = ComponentType.MACHINE_LEARNING_MODEL
    package = Component(name=name, type=kind, version=made.digest[:12], bom_ref="package")
    model = Component(
        name=made.model.name,
        type=kind,
        version=made.model.revision,
        bom_ref="model",
        licenses=[DisjunctiveLicense(name=license)] if license else None,
        properties=[Property(name="quantpress:digest", value=made.model.digest)],
        components=[
            Component(
                name=file,
                type=ComponentType.FILE,
                bom_ref=f"model/{file}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )
            for file, digest in sorted(made.inputs.model.items())
        ],
    )
    versions = dict(made.inputs.versions) | ({"vllm": throughput.vllm.version} if throughput else {})
    libraries = [
        Component(
            name=library, version=version, bom_ref=library, purl=PackageURL("pypi", name=library, version=version)
        )
        for library, version in sorted(versions.items())
    ]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:sha256:{made.digest}"),
        metadata=BomMetaData(component=package, timestamp=datetime.fromisoformat(made.created)),
        components=[model, *libraries],
    )
    bom.register_dependency(package, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
