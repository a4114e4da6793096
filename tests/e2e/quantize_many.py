"""Several jobs of the oneshot worker in one process: the libraries are imported once.

Arguments: a JSON file of jobs, one for the results, and `shapes` for the worker of that name instead.
"""

import json
import sys
from pathlib import Path

from quantpress.quantize import oneshot_worker as oneshot
from quantpress.quantize import shapes_worker as shapes

if __name__ == "__main__":
    work = shapes.work if sys.argv[3:] == ["shapes"] else oneshot.quantize
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: work(job) for name, job in jobs.items()}))
