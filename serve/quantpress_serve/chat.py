"""One question to a server that has just loaded a checkpoint: does it talk sense?"""

from __future__ import annotations

import http.client
import urllib.error

from quantpress.errors import StageError
from quantpress_serve.server import Server, request

QUESTION = "What is the capital of France?"
COMPLETION = "The capital of France is"


def ask(server: Server) -> dict[str, str]:
    """Question and answer, greedy. Models without a chat template complete a sentence instead.

    Raises StageError if the server fails or its answer is degenerate. No `seed` is sent: on a CPU, vLLM 0.32.0 dies
    of a seeded request ("CPU Generator does not use offset"), and a greedy answer needs none.
    """
    common = {"model": server.name, "max_tokens": 32, "temperature": 0}
    try:
        try:
            body = {**common, "messages": [{"role": "user", "content": QUESTION}]}
            answer = request(f"{server.url}/v1/chat/completions", body)["choices"][0]["message"]["content"]
            question = QUESTION
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            answer = request(f"{server.url}/v1/completions", {**common, "prompt": COMPLETION})["choices"][0]["text"]
            question = COMPLETION
        if not isinstance(answer, str):
            raise ValueError(f"the answer is {answer!r}, not text")
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise StageError(
            f"the server did not answer a chat request: {error}", hint="read its log", log=server.log
        ) from error
    if degenerate(answer):
        raise StageError(
            f"{server.name} answers {question!r} with {answer[:80]!r}: the checkpoint loads but talks nonsense",
            hint="try another scheme, or more calibration data",
            log=server.log,
        )
    return {"question": question, "answer": answer.strip()}


def degenerate(text: str) -> bool:
    """Whether an answer is empty, or repeats one character or one word."""
    words = text.split()
    return len(set(text.strip())) < 3 or (len(words) >= 8 and len(set(words)) <= 2)
