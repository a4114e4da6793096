"""Several jobs of the oneshot worker in one process: the libraries are imported once.

Arguments: a JSON file of jobs, one for the results, and `shapes` for the worker of that name instead.
"""

import json
import sys
from pathlib import Path

from quantpress.quantize.oneshot_worker import quantize
from quantpress.quantize.shapes_worker import write_config
from quantpress.quantize.workers import OneshotJob

if __name__ == "__main__":
    jobs = {name: OneshotJob.model_validate(job) for name, job in json.loads(Path(sys.argv[1]).read_text()).items()}
    only_shapes = sys.argv[3:] == ["shapes"]
    done = {name: write_config(job.common) if only_shapes else quantize(job) for name, job in jobs.items()}
    Path(sys.argv[2]).write_text(json.dumps({name: result.dump() for name, result in done.items()}))
