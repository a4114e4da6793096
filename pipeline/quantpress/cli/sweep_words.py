"""The options of a sweep as words of a command line: for its stages, and for the sweep that a cluster is to run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.words import unless_auto, words
from quantpress_serve.workload import engines

if TYPE_CHECKING:
    from quantpress.cli.options import Work
    from quantpress.cli.serving import Serving
    from quantpress.cli.sweep import Options


def of_all(options: Options, folder: Path) -> list[str]:
    """The options of the sweep as words, for the one that a cluster is to run. Files are those that it finds in its
    `folder`, and nothing is taken from the environment here, which is not that of the cluster."""
    data, serving = options.scoring.data, options.serving
    return [
        *of_work(replace(options.work, out=folder / options.work.out)),
        *_how_scored(options, str(folder / data) if data else None),
        *_of_vllm(serving, folder),
        *words(gate=options.scoring.gate),
        *_paired(serving),
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
    data = options.scoring.data or os.environ.get("QUANTPRESS_DATA") or None
    how = _how_scored(options, str(Path(data).absolute()) if data else None)
    return [*how, *_of_vllm(options.serving)]


def _how_scored(options: Options, data: str | None) -> list[str]:
    scoring = options.scoring
    return words(
        data=data,
        backend=scoring.backend,
        extend=scoring.extend,
        count_no_signal=scoring.count_no_signal,
        noise_floor=scoring.noise_floor,
        limit=scoring.limit,
    )


def of_serving(serving: Serving) -> list[str]:
    return [*_of_vllm(serving), *_paired(serving)]


def _of_vllm(serving: Serving, folder: Path | None = None) -> list[str]:
    """Files are those that lie here, or in the `folder`."""
    place = folder or Path.cwd()
    engine = [str(place / item) if _is_file(item) else item for item in serving.engine]
    return words(vllm=of_executable(serving.vllm, place), engine=engine, trust_workload=serving.trust_workload)


def of_executable(vllm: str | None, place: Path) -> str | None:
    """A name without a folder is looked for on the path of whichever machine."""
    return str(place / vllm) if vllm and "/" in vllm else vllm


def _paired(serving: Serving) -> list[str]:
    return words(pairing=unless_auto(serving.pairing), require_kernels=serving.require_kernels)


def _is_file(item: str) -> bool:
    return not engines.is_setting(item) and Path(item).is_file()
