"""`quantpress recipes`: list, show, validate and suggest recipes, and print the language's JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import MODEL, TARGET, Commands, add_dequantize, add_flags, add_out, add_trust


@dataclass(frozen=True)
class Options:
    """`action` decides which of the others have a meaning."""

    action: str
    recipe: str
    recipes: list[str]
    model: str
    target: str
    goal: str
    dequantize: bool
    trust_remote_code: bool
    out: Path


def add(commands: Commands) -> None:
    parser = commands.add_parser("recipes", help="list, show and validate recipes")
    parser.set_defaults(recipe="", recipes=[], model="", target="", goal="", out=Path())
    parser.set_defaults(dequantize=False, trust_remote_code=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the shipped recipes")
    show = actions.add_parser("show", help="print a recipe's file")
    show.add_argument("recipe", help="a shipped name or a path")
    validate = actions.add_parser("validate", help="check recipes without running anything")
    validate.add_argument("recipes", nargs="+", metavar="RECIPE", help="shipped names or paths")
    schema = actions.add_parser("schema", help="print the recipe language as a JSON Schema")
    suggest = actions.add_parser("suggest", help="rank the shipped recipes for a model and a target")
    suggest.add_argument("--model", default="embedded", help=MODEL)
    suggest.add_argument("--target", default="auto", help=TARGET)
    suggest.add_argument(
        "--goal",
        choices=("latency", "throughput", "memory", "accuracy"),
        default="latency",
        help="what counts most (%(default)s)",
    )
    add_out(suggest)
    add_dequantize(suggest)
    add_trust(suggest)
    for action in (listing, show, validate, schema, suggest):
        add_flags(action)


def run(options: Options) -> None:
    actions = {"list": _list, "show": _show, "validate": _validate, "schema": _schema, "suggest": _suggest}
    actions[options.action](options)


def _list(_: Options) -> None:
    from quantpress.language import shipped
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show

    found = {name: load_recipe(name).description for name in shipped.names("recipes")}
    width = max(map(len, found))
    show(found, "\n".join(f"{name:{width}}  {text}" for name, text in found.items()))


def _show(options: Options) -> None:
    from quantpress.language import shipped
    from quantpress.runtime import console

    console.write(shipped.find("recipes", options.recipe).read_text(encoding="utf-8"))


def _validate(options: Options) -> None:
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show

    loaded = {name: load_recipe(name) for name in options.recipes}
    lines = [f"{name}: valid ({', '.join(m.name for m in recipe.modifiers)})" for name, recipe in loaded.items()]
    show({name: recipe.dump() for name, recipe in loaded.items()}, "\n".join(lines))


def _schema(_: Options) -> None:
    from quantpress.recipe import json_schema
    from quantpress.runtime import console

    console.write(json_schema.text())


def _suggest(options: Options) -> None:
    from quantpress.cli import prepare
    from quantpress.model.source import described_model
    from quantpress.plan import suggest
    from quantpress.runtime.console import show

    target = prepare.target_named(options.target)
    model = described_model(options.model, options.dequantize, options.trust_remote_code)
    ranked = suggest.suggestions(model, target, options.goal, options.out)
    show([row.dump() for row in ranked], suggest.text(ranked, target, options.goal))
