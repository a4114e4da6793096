"""What several tests stand on: the blocks of a document, a server that answers everything alike, an S3 server."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from quantpress.model.source import Model
from quantpress.plan import hardware
from quantpress.plan.resolve import Plan, plan_of
from quantpress.recipe.recipe import Recipe

# The recipe for tests that serve: the first of these kinds that this machine computes exactly.
SERVED = next(
    name
    for name, kind in (("gptq-w4a16", "W4A16"), ("fp8-dynamic", "FP8 dynamic"))
    if hardware.cell(kind, hardware.this_machine()).support in ("full", "fallback")
)


# A language model that is made in a moment, with the embedded model's tokenizer.
SMALL: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

# A config whose widths every scheme divides.
SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "dtype": "bfloat16",
}


def planned_from(recipe: Recipe, config: dict[str, Any]) -> Plan:
    """The plan for a model of which only the config is known."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        return plan_of(recipe, Model("m", Path(folder), folder, config))


def blocks(path: Path, language: str) -> list[str]:
    """The contents of a Markdown file's fenced blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of a server on this machine that answers everything with this."""

    class Alike(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Alike) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class Store:
    """An S3 server (moto's) with one bucket, that can be stopped and started again with what it holds, and the
    environment that leads to it."""

    BUCKET = "models"
    SECRET = "averysecretaccesskey"

    def __init__(self) -> None:
        import boto3

        self.port = 0
        self.start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": self.SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key=self.SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.BUCKET)

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def objects(self, prefix: str = "team/v1/") -> dict[str, Any]:
        found = self.client.list_objects_v2(Bucket=self.BUCKET, Prefix=prefix).get("Contents", [])
        return {entry["Key"].removeprefix(prefix): entry["LastModified"] for entry in found}


class StandIn:
    """A server on this machine that answers as vLLM does, without a model: a key may be asked for, requests may fail.

    `refuses` maps a path to the status with which it is refused, `pages` to what it answers instead, and `seen` holds
    each request's path, key and body. `likelihood` gives each token of a prompt its own, where it is asked for them.
    """

    def __init__(
        self,
        key: str | None = None,
        refuses: dict[str, int] | None = None,
        pages: dict[str, bytes] | None = None,
        models: Sequence[str] = ("m",),
        max_model_len: int | None = None,
        failing: Callable[[int, dict[str, Any]], bool] = lambda number, body: False,
        said: str = "the engine is out of order",
        likelihood: Callable[[int], float] | None = None,
    ) -> None:
        self.likelihood = likelihood
        self.key, self.refuses, self.models, self.max_model_len = key, refuses or {}, models, max_model_len
        self.failing, self.said, self.pages = failing, said, pages or {}
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []

    @contextmanager
    def up(self) -> Iterator[str]:
        """Its URL, as long as it is up."""
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in._answer(self, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in._answer(self, body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()

    def _answer(self, caller: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        path = caller.path
        self.seen.append((path, caller.headers["Authorization"], body))
        status, said = self._status(path, caller.headers["Authorization"], body)
        if status != 200:
            content = json.dumps({"error": {"message": said, "code": status}}).encode()
        elif path in self.pages:
            content = self.pages[path]
        elif body.get("stream"):
            pieces = [{"choices": [{"text": " a", "index": 0}]}] * (body.get("max_tokens") or 1)
            usage = {"prompt_tokens": 1, "completion_tokens": len(pieces)}
            lines = [json.dumps(piece) for piece in [*pieces, {"choices": [], "usage": usage}]] + ["[DONE]"]
            content = "".join(f"data: {line}\n\n" for line in lines).encode()
        elif self.likelihood and body.get("echo"):
            several = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
            rows = [[None, *(self.likelihood(token) for token in prompt[1:]), -1.0] for prompt in several]
            each = [{"token_logprobs": row, "top_logprobs": [{"a": 0.0} for _ in row]} for row in rows]
            content = json.dumps({"choices": [{"index": n, "logprobs": one} for n, one in enumerate(each)]}).encode()
        else:
            content = json.dumps(self._whole(path)).encode()
        caller.send_response(status)
        if content.startswith(b"{"):
            caller.send_header("Content-Type", "application/json")
        caller.send_header("Content-Length", str(len(content)))
        caller.end_headers()
        caller.wfile.write(content)

    def _status(self, path: str, key: str | None, body: dict[str, Any]) -> tuple[int, str]:
        if self.key and key != f"Bearer {self.key}":
            return 401, f"Unauthorized: {key}"  # some servers repeat what they were sent
        if path in self.refuses:
            return self.refuses[path], self.said
        if body and body["model"] not in self.models:
            return 404, f"The model `{body['model']}` does not exist."
        if path not in ("/health", "/v1/models", "/v1/chat/completions", "/v1/completions"):
            return 404, "Not Found"
        return (500, self.said) if body and self.failing(len(self.seen), body) else (200, "")

    def _whole(self, path: str) -> dict[str, Any]:
        if path == "/v1/models":
            more = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
            return {"data": [{"id": name, "root": f"/{name}", **more} for name in self.models]}
        if path == "/v1/chat/completions":
            return {"choices": [{"message": {"content": "Paris, of course."}, "logprobs": None}]}
        return {"choices": [{"text": "Paris, of course.", "logprobs": None}]}
