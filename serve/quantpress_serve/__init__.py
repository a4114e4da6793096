"""The serve stage: a real vLLM server on a checkpoint, watched and stopped, and its throughput measured in pairs."""
