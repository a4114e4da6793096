"""Servers of one model that differ in how long their threads spin at a barrier, in turns: alone, and beside other work.

    make bench-waiting-server ARGS="--rounds 6"        (nothing else may run meanwhile; for CPUs)

Starts one vLLM for each of `--spins` (a value of GOMP_SPINCOUNT, or `default`), all on the same cores, and asks them in
turns for four completions at once. For each kind of other work (none, a program that multiplies matrices with torch on
every core, a plain Python loop a core) it prints output tokens/s by round, and the median ratio to the first server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from quantpress.model import source as models
from quantpress.model.source import find_model
from quantpress_serve.server import server
from quantpress_serve.server.server import Launch, Server
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.workload import Engine
from timing import in_turns, median_ratio

AT_ONCE = 4
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before our own servers
CORES = len(os.sched_getaffinity(0))
MATRICES = f"""import torch
torch.set_num_threads({CORES})
left, right = torch.randn(256, 576), torch.randn(576, 1536)
while True:
    left @ right"""
# The programs that run beside the load, by the name of the kind of other work.
BESIDE: dict[str, list[str]] = {"alone": [], "matrices": [MATRICES], "loops": ["while True: pass"] * CORES}


@dataclass(frozen=True)
class Spinning(Launch):
    """A server whose threads spin as long as asked, and not as quantpress would have it."""

    spins: str = "default"

    def environment(self) -> dict[str, str]:
        settings = {name: value for name, value in super().environment().items() if name != "GOMP_SPINCOUNT"}
        return settings if self.spins == "default" else {**settings, "GOMP_SPINCOUNT": self.spins}


@contextmanager
def busy(programs: Sequence[str]) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        time.sleep(4)  # until torch is imported
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def tokens_per_second(asked: Server, tokens: int) -> float:
    """Of AT_ONCE completions of so many tokens."""

    def complete(number: int) -> None:
        prompt = f"Request {number}: the history of {'the old town and its people ' * 8}"
        body = {"model": asked.name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{asked.url}/v1/completions", json.dumps(body).encode(), headers)
        DIRECT.open(request, timeout=600).read()

    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(complete, range(AT_ONCE)))
    return AT_ONCE * tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spins", nargs="+", default=["default", "2500", "10000"])
    parser.add_argument("--beside", nargs="+", choices=BESIDE, default=["alone", "matrices", "loops", "alone"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, nargs=2, default=[150, 50], help="of each request: alone, and beside")
    args = parser.parse_args()
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        sys.exit("error: GOMP_SPINCOUNT or OMP_WAIT_POLICY is set\n  next: unset them")
    path, vllm, engine = find_model(models.EMBEDDED).path, find_vllm(None), Engine(max_num_seqs=8, enforce_eager=False)
    rates: dict[str, dict[str, list[float]]] = {kind: {spins: [] for spins in args.spins} for kind in args.beside}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for spins in args.spins:
            launch = Spinning(
                vllm=vllm,
                path=path,
                name=spins,
                engine=engine,
                model_len=1024,
                prefix_caching=True,
                kv_space_gib=1,
                spins=spins,
            )
            servers[spins] = stack.enter_context(server.serving(launch, logs / f"{spins}.log"))
        for one in servers.values():
            tokens_per_second(one, 32)  # warms up
        for kind in args.beside:
            with busy(BESIDE[kind]):
                for _, spins in in_turns(args.spins, args.rounds):
                    rates[kind][spins].append(tokens_per_second(servers[spins], args.tokens[kind != "alone"]))
    for kind, found in rates.items():
        for spins, own in found.items():
            row: dict[str, object] = {"beside": kind, "spins": spins, "tokens_per_s": [round(rate, 1) for rate in own]}
            row |= {"median": round(median(own), 1), "ratio": round(median_ratio(own, found[args.spins[0]]), 3)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
