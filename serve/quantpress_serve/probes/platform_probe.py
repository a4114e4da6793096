"""Runs in vLLM's environment: what this vLLM serves on here. Prints one JSON object on its last line.

Arguments are not read: they only tell the kept answers of machines with other devices apart.
"""

from __future__ import annotations

import json
from typing import TypedDict


class Found(TypedDict):
    """As quantpress_serve.probes.asking.Platform, which cannot be imported here."""

    platform: str | None


def main() -> Found:
    """vLLM's own name of the platform: cpu, cuda, rocm, xpu, tpu, oot (a plugin's); None where it finds none."""
    from vllm.platforms import PlatformEnum, current_platform

    found = current_platform._enum
    return {"platform": None if found is PlatformEnum.UNSPECIFIED else found.name.lower()}


if __name__ == "__main__":
    print(json.dumps(main()))
