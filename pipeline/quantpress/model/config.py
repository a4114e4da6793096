"""A model's config.json: what its authors wrote, read with care."""

from __future__ import annotations

from typing import Any

_DTYPES = ("bfloat16", "float16", "float32")
Config = dict[str, Any]  # of others: its names and types are what each family of models makes them


def text_config(config: Config) -> Config:
    """The language model's part of the config of a model for several media."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def positions(config: Config) -> int:
    """The longest sequence that the model was made for, in tokens; 0 where its config does not say."""
    known = [number_in(text_config(config), name) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
    return min((length for length in known if length), default=0)


def number_in(config: Config, key: str) -> int:
    """A count in the config; 0 where it is missing or no number."""
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def dtype_of(config: Config) -> str:
    """The type that the config names for the model's numbers: bfloat16 where it names none that we know."""
    named = [part.get(key) for part in (config, text_config(config)) for key in ("dtype", "torch_dtype")]
    return next((str(name) for name in named if name in _DTYPES), _DTYPES[0])
