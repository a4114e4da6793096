"""How well a checkpoint reproduces the model layer by layer: quantpress_evaluate.layer_errors_worker by hand.

    python benchmarks/reconstruction_error.py MODEL_FOLDER CHECKPOINT_FOLDER

Prints a JSON list, one relative squared error a decoder layer.
"""

import json
import sys

from quantpress_evaluate.layer_errors_worker import measure

print(json.dumps(measure({"model": sys.argv[1], "checkpoint": sys.argv[2]})["errors"]))
