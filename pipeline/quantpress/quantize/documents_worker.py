"""Fetches documents of a hub data set into a local file, for a bundle."""

from __future__ import annotations

import json

from quantpress.quantize import calibration_data
from quantpress.quantize.workers import DOCUMENTS, DocumentsJob, DocumentsResult


def fetch(job: DocumentsJob) -> DocumentsResult:
    """Writes the file. Raises CapabilityError if the hub cannot be reached."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(job.model), trust_remote_code=job.trust_remote_code)
    count = tokens = 0
    with job.output.open("w", encoding="utf-8") as stream:
        for document in calibration_data.documents(job.source, job.seed):
            stream.write(json.dumps(document, ensure_ascii=False) + "\n")
            count += 1
            tokens += len(calibration_data.tokens_of(document, tokenizer))
            if tokens >= job.tokens:
                break
    return DocumentsResult(documents=count, tokens=tokens, note=f"{count} documents")


if __name__ == "__main__":
    raise SystemExit(DOCUMENTS.main(fetch))
