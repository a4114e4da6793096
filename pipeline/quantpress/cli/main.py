"""The command line: parsing only, so that `--help` answers at once; `commands` does the work."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from quantpress import __version__
from quantpress.errors import InputError, QuantpressError, StageError, of_the_environment

_EPILOG = """exit codes: 0 done, 1 a stage failed, 2 the input is wrong (nothing was written),
3 a gate is not met (the results are there), 4 the environment or the hardware cannot do it, 130 interrupted"""

_MODEL = "`embedded`, org/name[@revision], a folder or a .gguf file"
_TARGET = "sm_75, sm_80, sm_89, sm_90, sm_100, cpu-avx2, cpu-avx512, cpu-amx, or auto for this machine"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Prints errors, never a traceback unless --traceback asks for it."""
    args = build_parser().parse_args(argv)
    # Ctrl-C and a polite kill take the same way out, so that servers are stopped and staging folders removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command = getattr(importlib.import_module("quantpress.cli.commands"), args.command)
        return int(command(args) or 0)
    except QuantpressError as error:
        return _fail(error, args)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 -- the reader has gone; nothing is left to say
        return 0
    except Exception as error:
        return _fail(_explained(error), args, error)


def _explained(error: Exception) -> QuantpressError:
    if known := of_the_environment(error):
        return known
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return InputError(str(error)[:300], hint="name a path that can exist")
    if isinstance(error, OSError):
        return StageError(str(error), hint="check that the file is there and may be used")
    return StageError(
        f"unexpected {type(error).__name__}: {error}", hint="run again with --traceback and report what it prints"
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(error: QuantpressError, args: argparse.Namespace, cause: BaseException | None = None) -> int:
    print(error.render(), file=sys.stderr)
    if args.traceback:
        import traceback

        traceback.print_exception(cause or error)
    return error.exit_code


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="quantpress",
        description="From a declarative recipe to a compressed checkpoint that is proven in vLLM.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"quantpress {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_recipes(commands)
    _add_plan(commands)
    _add_stage(commands, "quantize", "apply a recipe to a model and write the checkpoint")
    evaluate = _add_stage(commands, "evaluate", "score a recipe's checkpoint and the model with lm-eval")
    bench = _add_stage(commands, "bench", "measure a recipe's checkpoint and the model in vLLM")
    run = _add_stage(commands, "run", "quantize, evaluate, bench and report, for one recipe or several", several="+")
    demo = _add_stage(commands, "demo", "run, small, with a recipe that this machine serves exactly", several="*")
    serve = _add_stage(commands, "serve", "serve a recipe's checkpoint with vLLM in the foreground")
    for command in (evaluate, run, demo):
        _evaluate_options(command)
    for command in (bench, run, demo):
        _bench_options(command)
    demo.set_defaults(suite="smoke", workload="glance")
    bench.add_argument(
        "--weights",
        choices=("real", "dummy"),
        default="real",
        help="dummy: the speed on MODEL's shapes, of which config.json is enough; nothing is quantized (%(default)s)",
    )
    for command in (evaluate, bench, run, demo, serve):
        command.add_argument("--vllm", help="the vllm executable (default: $VLLM, .venv-vllm, or the path)")
    for command in (bench, run, demo):
        command.add_argument("--port", type=int, help="port of the server on this machine (default: a free one)")
    serve.add_argument("--port", type=int, default=8000, help="port of the server (default: %(default)s)")
    compare = commands.add_parser("compare", help="compare two folders of lm-eval samples, whoever made them")
    compare.add_argument("baseline", help="a folder with samples_<task>.jsonl files somewhere below it")
    compare.add_argument("candidate", help="another one, scored on the same documents")
    compare.add_argument(
        "--metric", help="acc, acc_norm, exact_match, word_perplexity ... (default: the first there is)"
    )
    compare.add_argument("--filter", help="one of lm-eval's filters, for tasks that log several (default: the first)")
    _no_signal_option(compare)
    _gate_option(compare)
    _flags(compare)
    _add_report(commands)
    _add_bundle(commands)
    _add_package(commands)
    _add_upkeep(commands)
    doctor = commands.add_parser("doctor", help="show what this machine can do")
    _flags(doctor)
    return parser


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="write report.html, report.md and report.json over a model's recipes")
    parser.add_argument("--model", action="append", help=_MODEL + "; several times for several models (embedded)")
    parser.add_argument("--all", action="store_true", help="every model below --out")
    parser.add_argument("--out", default="artifacts", help="the artifacts' root folder (%(default)s)")
    parser.add_argument(
        "--layer-errors", action="store_true", help="measure each decoder layer's error first (both models in memory)"
    )
    parser.add_argument("--mlflow", metavar="URI", help="log the report to this MLflow server too")
    parser.add_argument("--against", metavar="REPORT", help="an older report.json: say what moved since, beyond noise")
    _trust(parser)
    _flags(parser)


def _add_recipes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("recipes", help="list, show and validate recipes")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the shipped recipes")
    show = actions.add_parser("show", help="print a recipe's file")
    show.add_argument("recipe", help="a shipped name or a path")
    validate = actions.add_parser("validate", help="check recipes without running anything")
    validate.add_argument("recipes", nargs="+", metavar="RECIPE", help="shipped names or paths")
    schema = actions.add_parser("schema", help="print the recipe language as a JSON Schema")
    suggest = actions.add_parser("suggest", help="rank the shipped recipes for a model and a target")
    suggest.add_argument("--model", default="embedded", help=_MODEL)
    suggest.add_argument("--target", default="auto", help=_TARGET)
    suggest.add_argument(
        "--goal",
        choices=("latency", "throughput", "memory", "accuracy"),
        default="latency",
        help="what counts most (%(default)s)",
    )
    for action in (listing, show, validate, schema, suggest):
        _flags(action)


def _add_bundle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_stage(commands, "bundle", "collect what a run needs, for a machine without a network", several="+")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the bundle's folder")
    parser.add_argument("--no-wheels", action="store_true", help="quantpress and vLLM are installed there already")
    parser.add_argument("--suite", default="commonsense", help="a shipped suite's name or a path (%(default)s)")
    parser.add_argument("--data", help="folder of <task>.jsonl in the hub's schema (default: $QUANTPRESS_DATA)")
    parser.add_argument("--workload", default="chat", help="a shipped workload's name or a path (%(default)s)")


def _add_package(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_stage(commands, "package", "turn a recipe's checkpoint into what a cluster takes")
    parser.add_argument("--to", metavar="FOLDER", help="the package's folder (default: OUT/<model>/<recipe>/package)")
    parser.add_argument(
        "--storage", metavar="URI", help="where the cluster will find it: s3://..., hf://org/name, pvc://claim/path"
    )
    parser.add_argument(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="what it runs on (default: as measured)"
    )
    parser.add_argument("--base-model", metavar="ORG/NAME", help="the model's id on the Hugging Face hub")
    parser.add_argument("--license", metavar="ID", help="the model's licence, where its files do not state it")
    parser.add_argument("--sign-key", metavar="KEY.pem", help="sign it with this elliptic-curve private key")
    push = commands.add_parser("push", help="upload a package")
    push.add_argument("folder", metavar="FOLDER", help="a package's folder")
    push.add_argument("destination", help="s3://bucket/prefix, hf://org/name, or oci://registry/repository:tag")
    push.add_argument("--public", action="store_true", help="make a new repository of the hub public")
    _flags(push)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plan", help="what a recipe makes of a model, before a weight is read")
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe field")
    parser.add_argument("--model", default="embedded", help=_MODEL + "; a folder needs no more than a config.json")
    parser.add_argument("--ask-vllm", action="store_true", help="ask the installed vLLM too (seconds, the first time)")
    parser.add_argument("--vllm", help="the vllm executable (default: $VLLM, .venv-vllm, or the path)")
    parser.add_argument("--target", help=_TARGET + "; exit code 4 if it cannot serve the result")
    parser.add_argument("--context", type=int, default=4096, help="tokens of each sequence in memory (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="sequences in memory at once (%(default)s)")
    _flags(parser)


def _add_upkeep(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser("status", help="list the artifacts with their results and age")
    verify = commands.add_parser("verify", help="check every byte of artifacts and packages")
    gc = commands.add_parser("gc", help="remove what killed runs left and scores that nothing refers to")
    reproduce = commands.add_parser("reproduce", help="make an artifact again from its manifest and compare")
    verify.add_argument(
        "artifacts", nargs="*", metavar="FOLDER", help="artifacts or packages (default: all artifacts below --out)"
    )
    verify.add_argument("--public-key", metavar="KEY.pem", help="check the signature of a package as well")
    reproduce.add_argument("artifact", metavar="FOLDER", help="an artifact's folder, with its manifest.json")
    _trust(reproduce)
    gc.add_argument("--yes", action="store_true", help="remove without asking")
    for command in (status, verify, gc):
        command.add_argument("--out", default="artifacts", help="the artifacts' root folder (%(default)s)")
    for command in (status, verify, gc, reproduce):
        _flags(command)


def _add_stage(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, several: str | None = None
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if several:
        parser.add_argument("recipes", nargs=several, metavar="RECIPE", help="shipped names or paths")
    else:
        parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a path")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a recipe field: calibration.samples=32",
    )
    parser.add_argument(
        "--target",
        help=_TARGET + "; or any: do not check whether vLLM serves the result "
        "(default: $QUANTPRESS_TARGET, or this machine)",
    )
    parser.add_argument(
        "--compute-dtype",
        choices=("auto", "stored", "float32"),
        default="auto",
        help="for calibration and scoring: float32 where a CPU multiplies the model's type slowly (%(default)s)",
    )
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="embedded", help="`embedded`, org/name[@revision], a folder or a .gguf file (%(default)s)"
    )
    parser.add_argument("--out", default="artifacts", help="the artifacts' root folder (%(default)s)")
    _trust(parser)
    _flags(parser)


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings")


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", default="commonsense", help="a shipped suite's name or a path (%(default)s)")
    parser.add_argument(
        "--backend",
        choices=("auto", "hf", "vllm"),
        help="what computes the likelihoods: transformers, the vLLM that will serve, or whichever is true (auto)",
    )
    _gate_option(parser)
    parser.add_argument(
        "--extend", action="store_true", help="take more documents until every gate is decided, beginning with --limit"
    )
    _no_signal_option(parser)
    parser.add_argument(
        "--noise-floor", action="store_true", help="score the model again in other batches: differences of no meaning"
    )
    parser.add_argument("--limit", type=int, help="score only the first N documents of each task")
    parser.add_argument("--data", help="folder of <task>.jsonl in the hub's schema (default: $QUANTPRESS_DATA)")


def _gate_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="GATE",
        help="what must hold, or exit code 3: recovery>=0.99, kl<=0.05, flips<=5%%, arc_easy:recovery>=0.98",
    )


def _no_signal_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--count-no-signal", action="store_true", help="count tasks on which the model itself only guesses, too"
    )


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workload", default="chat", help="a shipped workload's name or a path (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="measure again even if this was measured before")
    parser.add_argument("--vllm-url", metavar="URL", help="a server that already serves the checkpoint")
    parser.add_argument("--baseline-url", metavar="URL", help="a server that already serves the unquantized model")


if __name__ == "__main__":
    raise SystemExit(main())
