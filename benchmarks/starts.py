"""By how much the speed of one server differs from start to start, beside how much it differs within a start.

    make bench-starts ARGS="--starts 8 --rounds 4"        (nothing else may run meanwhile; 1 minute a start on a CPU)

Starts a server of the model anew each time, loads it so many times, and prints the logarithms' standard deviations:
within a start, and between starts (one-way analysis of variance; Searle, Casella and McCulloch 1992, section 3.6), with
95% of what it could be. `quantpress.statistics.ratios.START_SD` is what is assumed where servers are started once.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

from quantpress.model import source as models
from quantpress.model.source import find_model
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.starter import Starter
from quantpress_serve.server import server
from quantpress_serve.server.server import Launch
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.workload import Level, load_workload


def components(logs: list[list[float]]) -> dict[str, float | list[float]]:
    """Standard deviations within and between starts; all starts have as many rounds.

    The interval of the one between comes from that of the ratio of the mean squares, which is F-distributed.
    """
    from scipy import stats

    starts, rounds = len(logs), len(logs[0])
    within = statistics.fmean(statistics.variance(own) for own in logs)
    means = rounds * statistics.variance([statistics.fmean(own) for own in logs])
    degrees = (starts - 1, starts * (rounds - 1))
    edges = [max(0.0, within * (means / within / stats.f.ppf(q, *degrees) - 1) / rounds) for q in (0.975, 0.025)]
    return {
        "within_sd": math.sqrt(within),
        "between_sd": math.sqrt(max(0.0, (means - within) / rounds)),
        "between_sd_95": [math.sqrt(edge) for edge in edges],
        "p_no_difference": float(stats.f.sf(means / within, *degrees)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=models.EMBEDDED)
    parser.add_argument("--workload", default="smoke")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    if args.starts < 2 or args.rounds < 2:
        parser.error("variances need two starts and two rounds at least")
    vllm, workload, model = find_vllm(None), load_workload(args.workload), find_model(args.model)
    logs: list[list[float]] = []
    launch = Launch(
        vllm=vllm,
        path=model.path,
        name=model.name,
        engine=workload.engine,
        model_len=workload.model_len,
        kv_space_gib=1,
    )
    with tempfile.TemporaryDirectory() as work, Starter(vllm, Path(work) / "load.log", Path(work)) as starter:
        folder = Path(work)
        generator = Generator(starter, workload, folder)
        for start in range(args.starts):
            with server.serving(launch, folder / "server.log") as running:
                turns = [
                    Turn("baseline", Level(concurrency=args.concurrency), number, base=start, start=start)
                    for number in range(args.rounds)
                ]
                cells = [generator.measure(running, turn) for turn in turns]
            logs.append([math.log(cell.figures["output_throughput"]) for cell in cells])
            others = [cell.machine.other_work for cell in cells if cell.machine]
            speeds = [round(math.exp(log), 2) for log in logs[-1]]
            print(json.dumps({"start": start, "tokens_per_s": speeds, "other_work": others}), flush=True)
    print(json.dumps(components(logs)))


if __name__ == "__main__":
    main()
