"""What several tests stand on: the blocks of a document, a server that answers everything alike, an S3 server."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
