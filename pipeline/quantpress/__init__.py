"""quantpress: from a declarative recipe to a compressed checkpoint that is proven in vLLM."""

__version__ = "0.1.0"
