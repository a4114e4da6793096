"""The heavy halves of the stages: each runs as a process of its own, takes a JSON job and writes a JSON result."""
