"""Several jobs of the oneshot worker in one process: the libraries are imported once. Argument: a JSON file of jobs."""

import json
import sys
from pathlib import Path

from quantpress.workers import oneshot

if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: oneshot.quantize(job) for name, job in jobs.items()}))
