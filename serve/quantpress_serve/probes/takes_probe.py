"""Runs in vLLM's environment: whether this vLLM takes a model here, by its config.json and its platform alone.

    python takes_probe.py MODEL trusted|untrusted [WORD ...]

Prints one JSON object on its last line: the `method` by which vLLM would load it (null for one that is not quantized),
and the `reason` why it does not (null where it would try). No weight is read, so what its kernels refuse is not found
here. The other words are not read: they keep the answers for other models in this place, and on other devices, apart.
"""

from __future__ import annotations

import json
import sys
from typing import TypedDict


class Found(TypedDict):
    """As quantpress_serve.probes.asking.Taken, which cannot be imported here."""

    method: str | None
    reason: str | None


def main(model: str, trust: str) -> Found:
    """What vLLM's own configuration of the model says."""
    from pydantic import ValidationError
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    try:
        config = EngineArgs(model=model, trust_remote_code=trust == "trusted").create_model_config()
        return {"method": config.quantization, "reason": None}
    except ValidationError as error:
        return {"method": None, "reason": " ".join(error.errors()[0]["msg"].removeprefix("Value error, ").split())}
    except Exception as error:
        return {"method": None, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
