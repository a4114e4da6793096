"""Puts calibration data with images through the model's processor, before anything is made of it."""

from __future__ import annotations

from quantpress.quantize import calibration_data
from quantpress.quantize.conversations import rendered
from quantpress.quantize.image_inputs_worker import calibration_inputs, loaded_processor, templated
from quantpress.quantize.workers import IMAGES, ImagesJob, ImagesResult


def tried(job: ImagesJob) -> ImagesResult:
    """Raises InputError with file and line of the first conversation that template or processor do not take,
    CapabilityError where the processor needs a library that is not installed.

    Templates are tried on all conversations, the processor on those that are drawn: it takes 0.1 s for a large image.
    """
    processor = loaded_processor(job.model, job.trust_remote_code, job.where)
    for path in job.with_images:
        for placed in calibration_data.read_places(path):
            if "messages" in placed.document:
                rendered(placed.document["messages"], templated(processor), placed.where)
    _, about = calibration_inputs(job.calibration, processor)
    assert about.images is not None
    seen = about.images
    note = f"{seen.images} images in {seen.conversations} conversations, {about.tokens} tokens"
    return ImagesResult(tokens=about.tokens, images=seen, note=note)


if __name__ == "__main__":
    raise SystemExit(IMAGES.main(tried))
