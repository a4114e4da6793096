"""The machine: console, files, processes, and what this machine is."""
