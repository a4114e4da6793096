"""The options of a sweep as words of a command line: for its stages, and for the sweep that a cluster is to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress_serve.workload import engines

if TYPE_CHECKING:
    from quantpress.cli.sweep import Options


def of_all(options: Options) -> list[str]:
    """The options of the sweep as words, for the one that a cluster is to run."""
    return [
        *of_work(options),
        *of_scoring(options),
        *words(gate=options.gate, pairing=_unless_auto(options.pairing), require_kernels=options.require_kernels),
    ]


def of_work(options: Options) -> list[str]:
    return words(
        set=options.set,
        target=options.target,
        compute_dtype=_unless_auto(options.compute_dtype),
        offload=_unless_auto(options.offload),
        out=options.out.absolute(),
        trust_remote_code=options.trust_remote_code,
        dequantize=options.dequantize,
    )


def of_scoring(options: Options) -> list[str]:
    data = options.data or os.environ.get("QUANTPRESS_DATA") or None
    return words(
        data=Path(data).absolute() if data else None,
        backend=options.backend,
        extend=options.extend,
        count_no_signal=options.count_no_signal,
        noise_floor=options.noise_floor,
        limit=options.limit,
        vllm=options.vllm,
        engine=_located_engine(options.engine),
        trust_workload=options.trust_workload,
    )


def of_serving(options: Options) -> list[str]:
    return words(
        vllm=options.vllm,
        engine=_located_engine(options.engine),
        trust_workload=options.trust_workload,
        pairing=_unless_auto(options.pairing),
        require_kernels=options.require_kernels,
    )


def _unless_auto(value: str) -> str | None:
    """Of an option whose default is auto."""
    return None if value == "auto" else value


def _located_engine(items: Sequence[str]) -> list[str]:
    def is_file(item: str) -> bool:
        return not engines.is_setting(item) and Path(item).is_file()

    return [str(Path(item).absolute()) if is_file(item) else item for item in items]


def words(**options: object) -> list[str]:
    """Options as words of a command line: flags that are set, lists repeated, nothing for what is not given."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [f"{option}={one}" for one in value]
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words
