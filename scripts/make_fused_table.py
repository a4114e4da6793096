"""Makes pipeline/quantpress/plan/fused.json anew, from the installed vLLM: half a minute.

    python scripts/make_fused_table.py

The table is written as the probe answers, without what depends on the machine (what could not be imported).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.plan.fused import TABLE, Packing
from quantpress_serve.probes import asking
from quantpress_serve.vllm import find_vllm, vllm_version


def rows(vllm: Path) -> dict[str, Any]:
    """The table's contents: the version, and what is known of each architecture."""
    answer = asking.architectures(vllm)
    known = {name: _row(packing) for name, packing in sorted(answer.architectures.items())}
    return {"vllm": vllm_version(vllm).partition("+")[0], "architectures": known, "dropped": answer.dropped}


def _row(packing: Packing) -> dict[str, Any]:
    return packing.model_dump(mode="json", exclude_defaults=True, exclude={"missing"})


def text(table: dict[str, Any]) -> str:
    """As JSON, with a line for each architecture."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in table["architectures"].items()]
    head = f'{{\n  "vllm": {json.dumps(table["vllm"])},\n  "architectures": {{\n'
    reasons = [f"    {json.dumps(name)}: {json.dumps(reason)}" for name, reason in table["dropped"].items()]
    return head + ",\n".join(lines) + '\n  },\n  "dropped": {\n' + ",\n".join(reasons) + "\n  }\n}\n"


if __name__ == "__main__":
    TABLE.write_text(text(rows(find_vllm(None))), encoding="utf-8")
    print(f"{TABLE}: {TABLE.stat().st_size} bytes")
