"""Runs in vLLM's environment: which schemes this vLLM takes at which compute capability.

    python probe.py '["W4A16", ...]'

The argument lists presets of compressed-tensors. Prints one JSON object on its last line: for each preset and target
the scheme class that vLLM picks, or "no: ..." with its reason. Nothing is loaded and no GPU is needed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)


def picked(config: dict[str, Any]) -> dict[str, list[str]]:
    """For each target the scheme classes that vLLM picks for a quantization_config, or why it picks none.

    A scheme looks for its kernel when it is made; those of a GPU are not in a build for CPUs, so none is made here.
    """
    from vllm.model_executor.layers.quantization.compressed_tensors import schemes as classes
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.platforms import current_platform
    from vllm.platforms.interface import DeviceCapability

    for name in classes.__all__:
        getattr(classes, name).__init__ = lambda self, *args, **kwargs: None
    found = {}
    for capability in CAPABILITIES:
        has = DeviceCapability(major=capability // 10, minor=capability % 10)
        type(current_platform).get_device_capability = classmethod(lambda cls, device_id=0, has=has: has)
        parsed = CompressedTensorsConfig.from_config(json.loads(json.dumps(config)))
        found[f"sm_{capability}"] = [_scheme(parsed, part) for part in parsed.target_scheme_map.values()]
    type(current_platform).get_device_capability = classmethod(lambda cls, device_id=0: None)
    return found


def _scheme(parsed: Any, part: dict[str, Any]) -> str:
    try:
        scheme = parsed._get_scheme_from_parts(
            part["weights"], part["input_activations"], None, format=part.get("format"), layer_name="x"
        )
        parsed._check_scheme_supported(scheme.get_min_capability())
    except Exception as error:
        return f"no: {type(error).__name__}: {str(error)[:200]}"
    return type(scheme).__name__


def config_of(preset: str) -> dict[str, Any]:
    """The quantization_config of a checkpoint that was made with the preset."""
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from torch.nn import Linear

    scheme = preset_name_to_scheme(preset, ["Linear"])
    # W4A8 and W4AFP8 are stored packed by quantpress, which is what vLLM has kernels for.
    packed = preset in ("W4A8", "W4AFP8")
    scheme.format = "pack-quantized" if packed else infer_module_format(Linear, scheme).value
    return {
        "quant_method": "compressed-tensors",
        "format": scheme.format,
        "config_groups": {"group_0": scheme.model_dump(mode="json")},
        "ignore": ["lm_head"],
    }


def main(presets: list[str]) -> dict[str, dict[str, str]]:
    """Presets that vLLM's own compressed-tensors does not know are left out: they cannot be asked about by name."""
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    known = [preset for preset in presets if preset in PRESET_SCHEMES]
    return {preset: {target: one[0] for target, one in picked(config_of(preset)).items()} for preset in known}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
