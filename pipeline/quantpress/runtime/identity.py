"""What names a model in the files that a run leaves. Here, below both rooms that need it: model and artifact."""

from __future__ import annotations

from pydantic import Field

from quantpress.runtime.records import Record


class Dequantized(Record):
    """How the weights were `stored`, the type (`dtype`) that they were made, and the sha256 (`digest`) of the model's
    files as they were before."""

    stored: str
    dtype: str
    digest: str


class Identity(Record):
    """Which model it was: `source` is what the user named (a folder by its whole path), `digest` covers its files.

    `revision` is a hub model's commit or a GGUF file's sha256; `notes` are facts that a report must repeat;
    `dequantized` says what its weights were where they were quantized already and dequantized first.
    """

    name: str
    source: str
    revision: str | None = None
    digest: str
    notes: list[str] = Field(default_factory=list)
    dequantized: Dequantized | None = None
