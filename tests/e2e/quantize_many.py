"""Several jobs of a worker in one process: the libraries are imported once.

Arguments: a JSON file of jobs, one for the results, and the worker: `oneshot`, `shapes` or `stream`.
"""

import json
import sys
from pathlib import Path

from quantpress.quantize.oneshot_worker import quantize
from quantpress.quantize.shapes_worker import write_config
from quantpress.quantize.stream_worker import stream
from quantpress.quantize.workers import OneshotJob, StreamJob

WORKERS = {
    "oneshot": lambda job: quantize(OneshotJob.model_validate(job)),
    "shapes": lambda job: write_config(OneshotJob.model_validate(job).common),
    "stream": lambda job: stream(StreamJob.model_validate(job)),
}

if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    done = {name: WORKERS[sys.argv[3]](job) for name, job in jobs.items()}
    Path(sys.argv[2]).write_text(json.dumps({name: result.dump() for name, result in done.items()}))
