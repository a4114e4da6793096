"""Makes pipeline/quantpress/plan/fused.json anew, from the installed vLLM: half a minute.

python scripts/make_fused_table.py            # writes
python scripts/make_fused_table.py --check    # exit code 1 if it is not what the installed vLLM says
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quantpress.plan.fused import TABLE, Packing
from quantpress_serve.probes import asking
from quantpress_serve.vllm import find_vllm, vllm_version


def rows(vllm: Path) -> dict[str, Any]:
    """The table's contents, without what depends on the machine: what cannot be imported there."""
    answer = asking.architectures(vllm)
    known = {name: _row(packing) for name, packing in sorted(answer.architectures.items())}
    return {"vllm": vllm_version(vllm).partition("+")[0], "architectures": known, "dropped": answer.dropped}


def _row(packing: Packing) -> dict[str, Any]:
    return packing.model_dump(mode="json", exclude_defaults=True, exclude={"missing"})


def text(table: dict[str, Any]) -> str:
    """As JSON, with a line for each architecture."""
    parts = [f'  "vllm": {json.dumps(table["vllm"])}']
    for part in ("architectures", "dropped"):
        lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in table[part].items()]
        parts.append(f'  "{part}": {{\n' + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    made = text(rows(find_vllm(None)))
    if check:
        old, new = set(TABLE.read_text(encoding="utf-8").splitlines()), set(made.splitlines())
        print("\n".join(line[:200] for line in sorted(old ^ new)))
        return int(old != new)
    TABLE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
