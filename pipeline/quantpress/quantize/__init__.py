"""The quantize stage, and the workers that load llmcompressor."""
