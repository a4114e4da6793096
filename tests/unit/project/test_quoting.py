"""What a model, a recipe or a result says reaches no script, comment, YAML, Markdown or HTML but as text."""

from __future__ import annotations

import copy
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from quantpress.artifact.throughput import Throughput
from quantpress.errors import InputError
from quantpress.language import quoting
from quantpress.package import deploy
from quantpress.recipe.loading import load_recipe
from quantpress.report.views import markdown
from quantpress_serve.workload.workload import load_workload

EVIL = (
    "x\ntouch HIT\n# `a` ``` <script>alert(1)</script> | [y](javascript:z)\n```\n<b>\n---\n"
    "' \" $(touch HIT) ${x}\x1b[2J"
)
NOT_LETTERS = [
    EVIL,
    "`",
    "```\n<b>",
    "\\",
    "\\`<b>",
    "a`b``c",
    " ` ",
    "|",
    "\r<b>",
    "\u2028<b>",
    "\x85<b>",
    "",
    "\\[x](y)",
]


def html_of(text: str) -> str:
    """As GitHub and the hub show it."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


@pytest.mark.parametrize("value", NOT_LETTERS)
def test_markdown_stays_text(value: str) -> None:
    text = f"- {quoting.markdown(value)}, {quoting.code(value)}: {quoting.code(value)}\n\n"
    text += f"{quoting.fenced(value, 'yaml')}\n"
    shown = html_of(text + "\n" + markdown.table(["a", "b"], [[value, quoting.code(value)]]))
    for word in ("<script", "<b>", "<a ", "<hr"):
        assert word not in shown
    assert shown.count("<li>") == shown.count("<table>") == shown.count("<pre>") == 1
    assert shown.count("<td") == 2


@pytest.mark.parametrize("value", NOT_LETTERS)
def test_a_comment_and_a_word_stay_what_they_are(value: str, tmp_path: Path) -> None:
    script = f"# {quoting.comment(value)}\nprintf %s {quoting.shell(value)}\n"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == value.encode()
    assert list(tmp_path.iterdir()) == []
    assert yaml.safe_load(f"# {quoting.comment(value)}\na: 1\n") == {"a": 1}


def hostile(results: Callable[[str], Any]) -> Throughput:
    """The real result, of a workload whose engine argument goes on as a command."""
    found = copy.deepcopy(results("throughput"))
    server = found["servers"]["candidate"]
    words = ["vllm", "serve", "/m", "--response-role", "assistant\ntouch HIT\n#", "--other=a\n  command: [touch, HIT]"]
    server |= {"argv": words, "env": {}}
    return Throughput.read(found, Path("throughput.json"))


def test_an_argument_with_a_line_break_is_run_by_nothing(results: Callable[[str], Any], tmp_path: Path) -> None:
    made = deploy.files("name", deploy.engine(hostile(results)), "pvc://models/name", 10**9)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    for name, text in made.items():
        (tmp_path / "deploy" / name).write_text(text)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "deploy/docker-run.sh"], cwd=tmp_path, env=env, capture_output=True, check=True)
    assert b"assistant\ntouch HIT\n#" in done.stdout.split(b"\0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "deploy"]
    compose = yaml.safe_load(made["docker-compose.yaml"])
    assert "assistant\ntouch HIT\n#" in compose["services"]["vllm"]["command"]
    (deployment, _) = yaml.safe_load_all(made["kubernetes.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["vllm", "serve"]


@pytest.mark.parametrize("text", ["a\\nb", "a\\x07b", "a\\x1b[2Jb", "a\\u2028b", "a\\x7fb"])
def test_a_description_is_one_line(text: str, tmp_path: Path) -> None:
    recipe, load = tmp_path / "r.yaml", tmp_path / "w.yaml"
    recipe.write_text(f'name: r\ndescription: "{text}"\nmodifiers: [{{rtn: {{scheme: W8A8}}}}]\n')
    load.write_text(f'name: w\ndescription: "{text}"\ninput_len: 8\noutput_len: 8\nconcurrency: [1]\nrequests: 4\n')
    for read in (load_recipe, load_workload):
        with pytest.raises(InputError, match=r"[rw]\.yaml:2:"):
            read(str(recipe if read is load_recipe else load))


def test_a_control_character_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text in (
        'name: r\ndescription: d\nmodifiers: [{rtn: {scheme: W8A8, ignore: ["a\\eb"]}}]\n',
        'name: r\ndescription: d\nmodifiers: [{rtn: {scheme: W8A8, "a\\eb": 1}}]\n',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"r\.yaml:3:.*control character"):
            load_recipe(str(path))


def test_a_folded_description_is_still_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ndescription: >\n  One\n  line.\nmodifiers: [{rtn: {scheme: W8A8}}]\n")
    assert load_recipe(str(path)).description.strip() == "One line."
