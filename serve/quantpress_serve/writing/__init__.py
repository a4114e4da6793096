"""Chats that a model writes itself, to be calibrated on: vLLM's offline engine, run by vLLM's own Python."""
