"""What names a model in the files that a run leaves. Here, below both rooms that need it: model and artifact."""

from __future__ import annotations

from pydantic import Field

from quantpress.runtime.records import Record


class Identity(Record):
    """Which model it was: `source` is what the user named (a folder by its whole path), `digest` covers its files.

    `revision` is a hub model's commit or a GGUF file's sha256; `notes` are facts that a report must repeat;
    `dequantized_from` says how the source's weights were quantized that were dequantized first.
    """

    name: str
    source: str
    revision: str | None = None
    digest: str
    notes: list[str] = Field(default_factory=list)
    dequantized_from: str | None = None
