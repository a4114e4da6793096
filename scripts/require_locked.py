"""Exits with 4 unless the digest of every file in pip's report stands in a lock.

python scripts/require_locked.py LOCK REPORT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def unknown(lock: str, report: str) -> dict[str, str]:
    """What pip installed (its `--report`) and the lock does not name, by URL: its sha256."""
    files = [one["download_info"] for one in json.loads(report)["install"]]
    found = {file["url"]: _sha256(file["archive_info"]) for file in files}
    return {url: digest for url, digest in found.items() if f"--hash=sha256:{digest}" not in lock}


def _sha256(archive: dict[str, Any]) -> str:
    """pip before 23.1 tells some in an older form alone: `hash`, "sha256=..."."""
    return str(archive.get("hashes", {}).get("sha256") or archive["hash"].removeprefix("sha256="))


def main() -> int:
    lock, report = (Path(name) for name in sys.argv[1:])
    others = unknown(lock.read_text(), report.read_text())
    for url, digest in others.items():
        print(f"error: {url} has the digest {digest}, which {lock} does not name", file=sys.stderr)
        print(f"  next: find out where it comes from; if you want it, add its digest to {lock}", file=sys.stderr)
    return 4 if others else 0


if __name__ == "__main__":
    sys.exit(main())
