"""The options of a sweep as words of a command line: for its stages, and for the sweep that a cluster is to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.words import unless_auto, words
from quantpress_serve.workload import engines

if TYPE_CHECKING:
    from quantpress.cli.options import Work
    from quantpress.cli.serving import Serving
    from quantpress.cli.sweep import Options


def of_all(options: Options) -> list[str]:
    """The options of the sweep as words, for the one that a cluster is to run."""
    return [
        *of_work(options.work),
        *of_scoring(options),
        *words(gate=options.scoring.gate),
        *_paired(options.serving),
    ]


def of_work(work: Work) -> list[str]:
    return words(
        set=work.set,
        target=work.target,
        compute_dtype=unless_auto(work.compute_dtype),
        offload=unless_auto(work.offload),
        out=work.out.absolute(),
        trust_remote_code=work.trust_remote_code,
        dequantize=work.dequantize,
    )


def of_scoring(options: Options) -> list[str]:
    """Without gates."""
    scoring = options.scoring
    data = scoring.data or os.environ.get("QUANTPRESS_DATA") or None
    how = words(
        data=Path(data).absolute() if data else None,
        backend=scoring.backend,
        extend=scoring.extend,
        count_no_signal=scoring.count_no_signal,
        noise_floor=scoring.noise_floor,
        limit=scoring.limit,
    )
    return [*how, *_of_vllm(options.serving)]


def of_serving(serving: Serving) -> list[str]:
    return [*_of_vllm(serving), *_paired(serving)]


def _of_vllm(serving: Serving) -> list[str]:
    engine = _located_engine(serving.engine)
    return words(vllm=serving.vllm, engine=engine, trust_workload=serving.trust_workload)


def _paired(serving: Serving) -> list[str]:
    return words(pairing=unless_auto(serving.pairing), require_kernels=serving.require_kernels)


def _located_engine(items: Sequence[str]) -> list[str]:
    def is_file(item: str) -> bool:
        return not engines.is_setting(item) and Path(item).is_file()

    return [str(Path(item).absolute()) if is_file(item) else item for item in items]
