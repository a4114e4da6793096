"""Documents of one's own as a table that lm-eval reads: each value comes out with the type that it has in the JSON.

The datasets library's own reading of JSON lines makes dates of texts that look like dates, and numbers of digits where
a column holds both.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quantpress_evaluate import suite


def write(source: Path, table: Path) -> None:
    """Writes the documents of the JSONL file `source` as Parquet. Raises InputError for a line that is none."""
    import pyarrow
    from datasets import Features, Json
    from pyarrow import parquet

    rows = [document for _, document in suite.documents_of(source)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    plain = pyarrow.table({name: array for name, (array, _) in columns.items()})
    features = Features.from_arrow_schema(plain.schema)
    features |= {name: Json() for name, (_, is_uniform) in columns.items() if not is_uniform}
    schema = Features(features).arrow_schema
    table.parent.mkdir(parents=True, exist_ok=True)
    half = table.with_name(f".{table.name}.{os.getpid()}.tmp")
    parquet.write_table(plain.cast(schema).replace_schema_metadata(schema.metadata), half)
    half.replace(table)


def is_whole(table: Path) -> bool:
    """Whether the file is there and has its end, where parquet keeps what it holds."""
    import pyarrow
    from pyarrow import parquet

    try:
        return table.is_file() and bool(parquet.read_metadata(table))
    except (OSError, pyarrow.ArrowException):
        return False


def _column(values: list[Any]) -> tuple[Any, bool]:
    """The values as they are if they have one type, else each as JSON; and whether they have."""
    import pyarrow

    try:
        array = pyarrow.array(values)
        if _written(array.to_pylist()) == _written(values):
            return array, True
    except (pyarrow.ArrowException, OverflowError):
        pass
    texts = [None if value is None else json.dumps(value) for value in values]
    return pyarrow.array(texts, pyarrow.string()), False


def _written(values: list[Any]) -> str:
    return json.dumps(values, sort_keys=True)
