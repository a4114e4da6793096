"""Questions to an installed vLLM: scripts that run in its environment, and their kept answers."""
