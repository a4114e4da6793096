"""Worker: whether transformers can load a format here, asked of transformers' own quantizer. Heavy."""

from __future__ import annotations

from quantpress.adopt.computed import LOADS, LoadsJob, LoadsResult
from quantpress.errors import one_line


def work(job: LoadsJob) -> LoadsResult:
    """Has the quantizer of this format look for what it needs: its library, a device."""
    import torch
    from transformers.quantizers import AutoHfQuantizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        quantizer = AutoHfQuantizer.from_config(dict(job.quantization), pre_quantized=True)
        quantizer.validate_environment(device_map={"": device}, dtype=torch.bfloat16)
    except Exception as error:  # each quantizer raises what it likes
        return LoadsResult(reason=f"transformers cannot load it here: {one_line(error)}")
    said = quantizer.quantization_config
    if getattr(said, "dequantize", False) and "mxfp4" not in str(said.quant_method).lower():
        # As FP8 in blocks where there is no GPU for it. MXFP4 has no quantized activations to leave out.
        return LoadsResult(reason="transformers makes 16 bits of it here, and leaves out what it does to activations")
    return LoadsResult(reason=None)


if __name__ == "__main__":
    raise SystemExit(LOADS.main(work))
