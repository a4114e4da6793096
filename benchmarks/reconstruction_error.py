"""How well a checkpoint's decoder layers reproduce the model's, layer by layer: quantpress.workers.layer_errors.

    python benchmarks/reconstruction_error.py MODEL_FOLDER CHECKPOINT_FOLDER

Prints a JSON list, one relative squared error a decoder layer.
"""

import json
import sys

from quantpress.workers.layer_errors import measure

print(json.dumps(measure({"model": sys.argv[1], "checkpoint": sys.argv[2]})["errors"]))
