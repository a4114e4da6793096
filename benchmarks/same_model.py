"""A fake "faster" candidate: the model against itself under another name. No speed-up may come of it.

    make bench-same-model ARGS="--workload smoke --weights dummy"        (nothing else may run meanwhile)

Exit code 1 if one does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from quantpress.model import source as models
from quantpress.model.source import described_model, find_model
from quantpress_serve.bench import stage
from quantpress_serve.bench.dummy import tokenizer_for
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.workload.workload import load_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=models.EMBEDDED)
    parser.add_argument("--workload", default="smoke")
    parser.add_argument("--weights", choices=("real", "dummy"), default="real")
    parser.add_argument("--pairing", default="auto")
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    args = parser.parse_args()
    load = load_workload(args.workload)
    model = (described_model if args.weights == "dummy" else find_model)(args.model)
    weight_bytes = sum(path.stat().st_size for path in model.path.glob("*.safetensors"))
    subject = Subject(
        name="surely-faster",
        folder=args.out / model.name / "same",
        digest="same",
        candidate=model.path,
        model=model,
        model_digest="same",
        weight_bytes={"candidate": weight_bytes, "baseline": weight_bytes},
        weights=args.weights,
        tokenizer=tokenizer_for(model),
    )
    rows = stage.measure(subject, load, Sides(pairing=args.pairing), fresh=True).summary
    for row in rows:
        shown = row.model_dump(include={"concurrency", "ratios", "speedup", "interval", "spread", "verdict"})
        print(json.dumps(shown))
    if any(row.verdict == "faster" for row in rows):
        sys.exit("the model was called faster than itself")


if __name__ == "__main__":
    main()
