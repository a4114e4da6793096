"""Tries a model's chat template on every conversation of local files, before anything is made of them."""

from __future__ import annotations

import sys
import time

from quantpress.model.whole_model_worker import remote_code_explained
from quantpress.quantize import calibration_data
from quantpress.quantize.conversations import rendered, texts_alone
from quantpress.quantize.workers import CHATS, ChatsJob, ChatsResult
from quantpress.runtime.worker import report_progress


def do_without_torch() -> None:
    """Starts three seconds faster: transformers imports torch where it is installed, and no tokenizer needs it.

    A None in sys.modules makes Python treat a module as not installed; must run first.
    """
    sys.modules["torch"] = sys.modules["sklearn"] = None  # type: ignore[assignment]


def tried(job: ChatsJob) -> ChatsResult:
    """Raises InputError with file and line of the first conversation that the template does not take."""
    if not job.trust_remote_code:  # code of the model's own may import what it likes
        do_without_torch()
    from transformers import AutoTokenizer

    with remote_code_explained(str(job.model)):
        tokenizer = AutoTokenizer.from_pretrained(str(job.model), trust_remote_code=job.trust_remote_code)
    count, said = 0, time.monotonic()
    for path in job.files:
        for placed in calibration_data.read_places(path):
            if "messages" in placed.document:
                rendered(texts_alone(placed.document["messages"]), tokenizer, placed.where)
                count += 1
            if time.monotonic() - said > 1:
                said = time.monotonic()
                report_progress(placed.where)
    return ChatsResult(conversations=count, note=f"{count} conversations")


if __name__ == "__main__":
    raise SystemExit(CHATS.main(tried))
