"""Whether quantpress's figures are those of a plain `vllm serve` and `vllm bench serve` on the same checkpoint.

    make bench-agreement ARGS="w8a8-dynamic"        (made before by `make quantize`; nothing else may run meanwhile)

In turns, for the candidate (and with --both the baseline): one cell through quantpress's own code path, and the same
cell by hand against a server started by hand. Prints every figure in output tokens/s, the ratio of the medians, and the
mean ratio of the pairs with its 95% interval, which takes in how much two starts of one server may differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from quantpress.artifact.manifest import artifact_of
from quantpress.model import source as models
from quantpress.model.source import find_model
from quantpress.runtime import environment
from quantpress.statistics.ratios import estimate
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.starter import Starter
from quantpress_serve.server import server
from quantpress_serve.server.server import Launch
from quantpress_serve.vllm import find_vllm, serving_environment
from quantpress_serve.workload.workload import Level, load_workload
from timing import in_turns, ratios


def by_hand(vllm: Path, path: Path, port: int, space: int) -> subprocess.Popen[bytes]:
    """`vllm serve` as a person would start it on this machine; `space` is the KV cache in GiB on a CPU."""
    command = f"{vllm} serve {path} --port {port} --max-model-len 320 --no-enable-prefix-caching"
    command += "" if environment.gpus() else " --enforce-eager"
    return subprocess.Popen(
        command.split(),
        env={**os.environ, **serving_environment(space)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def hand_measured(vllm: Path, path: Path, port: int, concurrency: int, seed: int, folder: Path) -> float:
    command = f"{vllm} bench serve --base-url http://127.0.0.1:{port} --model {path} --dataset-name random "
    command += f"--random-input-len 128 --random-output-len 128 --ignore-eos --seed {seed} "
    command += f"--num-prompts {4 * concurrency} --num-warmups {concurrency} --max-concurrency {concurrency} "
    command += f"--temperature 0 --save-result --result-dir {folder} --result-filename hand.json"
    subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return float(json.loads((folder / "hand.json").read_text())["output_throughput"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="gptq-w4a16")
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--both", action="store_true", help="the unquantized model too")
    args = parser.parse_args()
    vllm, workload = find_vllm(None), load_workload("chat")
    model = find_model(models.EMBEDDED)
    checkpoint = artifact_of(args.out, model.name, args.recipe).checkpoint.resolve()
    sides = {"candidate": checkpoint, "baseline": model.path}
    for role, path in sides.items() if args.both else [("candidate", checkpoint)]:
        ours, hand, quiet = [], [], []
        with tempfile.TemporaryDirectory() as work:
            folder, log = Path(work), Path(work) / "log"
            port = server.free_port()
            process = by_hand(vllm, path, port, 1)
            try:
                launch = Launch(
                    vllm=vllm,
                    path=path,
                    name=args.recipe,
                    engine=workload.engine,
                    model_len=workload.model_len,
                    kv_space_gib=1,
                )
                with server.serving(launch, folder / "server.log") as own, Starter(vllm, log, folder) as starter:
                    while not server.healthy(f"http://127.0.0.1:{port}"):
                        time.sleep(1)
                    generator = Generator(starter, workload, folder)
                    for number, who in in_turns(("ours", "hand"), args.rounds):
                        turn = Turn(role, Level(concurrency=args.concurrency), number)
                        if who == "ours":
                            measured = generator.measure(own, turn)
                            ours.append(measured.figures["output_throughput"])
                            quiet.append(measured.machine.other_work if measured.machine else None)
                        else:
                            hand.append(hand_measured(vllm, path, port, args.concurrency, turn.seed, folder))
            finally:
                process.terminate()
                process.wait()
        ratio = median(ours) / median(hand)
        found = estimate([ratios(ours, hand)])
        about = {"role": role, "quantpress": ours, "by_hand": hand, "ratio_of_medians": ratio}
        print(json.dumps(about | {"pairs": found.value, "interval": found.interval, "other_work": quiet}), flush=True)


if __name__ == "__main__":
    main()
