"""`quantpress sweep`: models x recipes x suites x workloads, on Ray."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, Work, add_engine, add_flags, add_vllm, add_work
from quantpress.cli.scoring import Scoring, add_data, add_how_to_score
from quantpress.cli.serving import Serving, add_how_to_serve
from quantpress.errors import CapabilityError, GateError, InputError, StageError

if TYPE_CHECKING:
    from quantpress.sweep.file import Read
    from quantpress.sweep.placing import Node
    from quantpress.sweep.stages import Outcome, Stage


@dataclass(frozen=True)
class Options:
    """Where it runs, and what holds for every cell: the options of `run`, less the models, suites and workloads of
    the file, which are empty here."""

    file: Path
    plan: bool
    render: str | None
    address: str | None
    work: Work
    scoring: Scoring
    serving: Serving

    @property
    def elsewhere(self) -> bool:
        """Whether other machines do the work: what they can do, they say themselves."""
        return self.address is not None


def add(commands: Commands) -> None:
    text = "models x recipes x suites x workloads on Ray, on this machine or a cluster"
    parser = commands.add_parser("sweep", help=text, description=f"Runs {text}.")
    parser.add_argument("file", type=Path, metavar="FILE", help="which of them, as YAML")
    parser.add_argument(
        "--plan", action="store_true", help="show the cells, what is there already, and what each stage needs"
    )
    parser.add_argument(
        "--render",
        choices=("ray-job", "kuberay"),
        help="print what submits the sweep to a cluster: a script for `ray job submit`, or a RayJob for Kubernetes",
    )
    parser.add_argument(
        "--address",
        help="a Ray cluster that runs: auto where this machine is a node of it, or HOST:6379 (default: this machine)",
    )
    # Of each cell, or about servers that someone else runs.
    parser.set_defaults(model="", suite="", workload="", fresh=False, port=None, online=None)
    parser.set_defaults(vllm_url=None, baseline_url=None, vllm_model=None, baseline_model=None, api_key_env=None)
    add_work(parser)
    add_data(parser)
    add_how_to_score(parser)
    add_how_to_serve(parser)
    add_vllm(parser)
    add_engine(parser)
    add_flags(parser)


def run(options: Options) -> None:
    """Everything that can be wrong is said before the first stage begins. A stage that fails ends its cell alone."""
    from quantpress.cli import beforehand, sweep_plan
    from quantpress.report.views import index
    from quantpress.runtime import console
    from quantpress.sweep import cluster, file, placing, table
    from quantpress_evaluate.stage import require_gates

    read = file.read(options.file)
    if options.render:
        console.write(_rendered(options, read))
        return
    named = sweep_plan.named(options, read)
    if not options.plan:
        cluster.require_ray()
        beforehand.require_place(options.work.out)
    planned = sweep_plan.planned(options, read, named)
    if len({one.model.name for one in planned}) > 1:
        index.require_ours(options.work.out)
    if options.plan:
        stages = sweep_plan.stages(options, planned, [placing.this_machine()])
        there = sweep_plan.there(options, planned, stages)
        console.show(
            {"name": read.sweep.name, "stages": [{**stage.dump(), "there": stage.key in there} for stage in stages]},
            table.plan(stages, there),
        )
        return
    with cluster.connected(options.address) as nodes:
        stages = sweep_plan.stages(options, planned, nodes)
        outcomes = _followed(options, read.sweep.name, stages, nodes)
    _report(options.work.out, [one.model for one in outcomes if one.has_results])
    _require_ended_well(outcomes)
    # Read anew: a bench may have found that the engine does not compute what was scored.
    require_gates(sweep_plan.gates(options.work.out, planned))
    _require_no_gate(outcomes)


def _rendered(options: Options, read: Read) -> str:
    """Paths are those on the cluster: the file lies in the shared folder, and relative ones begin there."""
    from quantpress.cli import sweep_words
    from quantpress.sweep import submitting

    if read.sweep.cluster is None:
        raise InputError(
            f"{options.file} has no `cluster`, which says what to render", hint="docs/how-to/sweep.md has one"
        )
    folder = Path(read.sweep.cluster.folder)
    words = ["quantpress", "sweep", str(folder / options.file.name), *sweep_words.of_all(options, folder)]
    render = submitting.ray_job if options.render == "ray-job" else submitting.kuberay
    return render(read.sweep.name, read.sweep.cluster, [*words, "--address", "auto", "--json"])


def _followed(options: Options, name: str, stages: list[Stage], nodes: list[Node]) -> list[Outcome]:
    """What became of all stages, shown while they go on, and kept in sweep.json after each."""
    from quantpress.runtime import console
    from quantpress.sweep import cluster, table
    from quantpress.sweep.stages import SweepRecord
    from quantpress.sweep.task import Setting

    folder, started = options.work.out.absolute() / ".sweeps" / name, time.time()
    logs = folder / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started))
    record = SweepRecord(name=name, stages=len(stages), started=round(started, 3))
    setting = Setting(logs, os.environ.get("OMP_NUM_THREADS"), Path.cwd())
    console.say(f"{len(stages)} stages on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}; logs: {logs}")
    progress = table.Progress(stages, logs)
    with console.live(f"sweep {name}", progress.table, progress.under_way):
        for outcome in cluster.outcomes(stages, nodes, setting):
            progress.done[outcome.key] = outcome
            record = record.model_copy(update={"outcomes": [*record.outcomes, outcome]})
            record.save(folder / "sweep.json")
            console.event({"event": "stage", **outcome.dump()})
            console.say(progress.line(outcome))
    record = record.model_copy(update={"ended": round(time.time(), 3)})
    record.save(folder / "sweep.json")
    console.event({"event": "sweep", "name": name, "started": record.started, "ended": record.ended}, progress.text())
    return record.outcomes


def _report(out: Path, models: list[str]) -> None:
    """One report over all models of which there is anything."""
    from quantpress.cli.report import report_of_models

    if models:
        report_of_models(out, list(dict.fromkeys(models)))


def _require_ended_well(outcomes: list[Outcome]) -> None:
    """Raises StageError for what failed, or was skipped all the same; CapabilityError where only the environment was to
    blame."""
    skipped = [one for one in outcomes if one.state == "skipped"]
    failed = [one for one in outcomes if one.state in ("failed", "lost")] or skipped
    if failed:
        kind = CapabilityError if all(one.exit_code == CapabilityError.exit_code for one in failed) else StageError
        raise kind(_why(failed), hint="read the logs of the stages; started again, the sweep does what is missing")


def _require_no_gate(outcomes: list[Outcome]) -> None:
    """Raises GateError for a gate that a stage found not to be met, whatever is read of it afterwards."""
    from quantpress_evaluate.stage import EXTEND

    if missed := [one for one in outcomes if one.state == "gate"]:
        raise GateError(_why(missed), hint=EXTEND)


def _why(outcomes: list[Outcome]) -> str:
    return "\n       ".join(f"{one.title}: {(one.error or 'see its log').splitlines()[0]}" for one in outcomes)
