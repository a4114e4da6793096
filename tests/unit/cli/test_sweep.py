"""`quantpress sweep` before anything runs, and how it ends."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.cli import sweep
from quantpress.errors import CapabilityError, GateError, StageError
from quantpress.sweep import cluster
from quantpress.sweep.stages import Outcome, State

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TEXT = "name: a\ndescription: b\nmodels: [embedded]\nrecipes: [{}]\n"


def test_a_wrong_file_is_exit_code_2_and_nothing_is_written(quantpress: Run, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(TEXT.format("rtn-w4a16, gtpq-w4a16"))
    done = quantpress("sweep", "sweep.yaml")
    assert done.returncode == 2, done.stderr
    assert "sweep.yaml:4:22: 'gtpq-w4a16' is not a shipped recipe; did you mean 'gptq-w4a16'?" in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_what_is_rendered_is_the_sweep_with_its_options(quantpress: Run, tmp_path: Path) -> None:
    text = TEXT.format("rtn-w4a16")
    (tmp_path / "sweep.yaml").write_text(text)
    options = ("--limit", "8", "--gate", "recovery>=0.99", "--out", "out", "--set", "modifiers.0.rtn.group_size=64")
    refused = quantpress("sweep", "sweep.yaml", *options, "--render", "kuberay")
    assert refused.returncode == 2 and "has no `cluster`" in refused.stderr
    of_cluster = "cluster: {image: i, claim: c, folder: /shared, nodes: 2, cpus: 8, memory: 32Gi}\n"
    (tmp_path / "sweep.yaml").write_text(text + of_cluster)
    done = quantpress("sweep", "sweep.yaml", *options, "--render", "ray-job")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("exec ray job submit -- quantpress sweep /shared/sweep.yaml ")
    for word in ("--limit=8", "'--gate=recovery>=0.99'", "--out=/shared/out", "--address auto --json"):
        assert word in last
    assert last.count("--set=modifiers.0.rtn.group_size=64") == 1


def test_without_ray_the_command_is_named_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(CapabilityError) as error:
        cluster.require_ray()
    assert "pip install 'quantpress[cluster]'" in (error.value.hint or "")


def outcome(state: State, exit_code: int | None = None) -> Outcome:
    return Outcome(
        key="k", verb="evaluate", model="m", recipe="r", of="s", state=state, exit_code=exit_code, error="why\nmore"
    )


ENDS = [
    ([("made", 0), ("there", 0)], None),
    ([("made", 0), ("gate", 3)], GateError),
    ([("made", 0), ("gate", 3), ("failed", 1)], StageError),
    ([("failed", 1), ("gate", 3), ("skipped", None)], StageError),
    ([("failed", 4), ("made", 0)], CapabilityError),
    ([("failed", 4), ("lost", None)], StageError),
    ([("made", 0), ("skipped", None)], StageError),
    ([("gate", 3), ("skipped", None)], StageError),
]


@pytest.mark.parametrize(("ends", "kind"), ENDS)
def test_how_a_sweep_ends(ends: list[tuple[State, int | None]], kind: type[Exception] | None) -> None:
    outcomes = [outcome(*one) for one in ends]

    def ended() -> None:
        sweep._require_ended_well(outcomes)
        sweep._require_no_gate(outcomes)

    if kind is None:
        ended()
        return
    with pytest.raises(kind) as error:
        ended()
    assert type(error.value) is kind
    assert "evaluate m with r, s: why" in str(error.value) and "more" not in str(error.value)
