"""How well a checkpoint's decoder layers reproduce the model's, layer by layer: quantpress.report.layer_errors_worker.

    python benchmarks/reconstruction_error.py MODEL_FOLDER CHECKPOINT_FOLDER

Prints a JSON list, one relative squared error a decoder layer.
"""

import json
import sys

from quantpress.report.layer_errors_worker import measure

print(json.dumps(measure({"model": sys.argv[1], "checkpoint": sys.argv[2]})["errors"]))
