"""How well a checkpoint reproduces the model layer by layer: quantpress_evaluate.layer_errors_worker by hand.

    python benchmarks/reconstruction_error.py MODEL_FOLDER CHECKPOINT_FOLDER

Prints a JSON list, one relative squared error a decoder layer.
"""

import json
import sys
from pathlib import Path

from quantpress_evaluate.layer_errors_worker import layer_errors
from quantpress_evaluate.workers import LayerErrorsJob

job = LayerErrorsJob(model=Path(sys.argv[1]), checkpoint=Path(sys.argv[2]))
print(json.dumps(layer_errors(job).errors))
