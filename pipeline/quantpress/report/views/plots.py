"""The report's plots as Vega-Lite specifications, drawn to SVG without a browser, a script or the network.

Colours are the page's CSS variables, so one drawing serves the light and the dark theme. Each plot carries a text that
says what it shows; the figures themselves are in the tables.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import Any

from quantpress.errors import CapabilityError
from quantpress.report.facts.comparable import point_at
from quantpress.report.facts.fields import Data, get

Spec = dict[str, Any]
WIDTH = 392  # of the whole drawing, so that text keeps one size in all of them
BAND = 18  # height of one recipe's bar
COLOURS = 8
CURVE = 280  # height of a plot of lines
_ARIA = re.compile(r' (aria-[a-z]+|role|xmlns:xlink)="[^"]*"')


@dataclass(frozen=True)
class Plot:
    """A finished drawing: its name, heading, what it shows in words, and the SVG element."""

    name: str
    title: str
    text: str
    svg: str


def draw(name: str, title: str, text: str, layers: list[Spec], height: int = 230, width: int = WIDTH) -> Plot:
    """One plot. Raises CapabilityError if the drawing library is not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise CapabilityError(
            "vl-convert-python is not installed, so report.html cannot be drawn", hint="make setup"
        ) from error
    sized = {"width": width, "height": height, "padding": 4, "autosize": {"type": "fit-x", "contains": "padding"}}
    spec = {**sized, "layer": layers, "config": _CONFIG}
    svg = _ARIA.sub("", vl_convert.vegalite_to_svg(json.dumps(spec)))
    return Plot(name, title, text, svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(text)}" ', 1))


_CONFIG: Spec = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{key: "var(--ink-soft)" for key in ("labelColor", "titleColor")},
        **{key: "var(--line)" for key in ("gridColor", "domainColor", "tickColor")},
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 150, "gridWidth": 0.6},
    },
    "bar": {"color": "var(--bar)"},
    "rule": {"color": "var(--ink-soft)"},
    "text": {"color": "var(--ink)", "fontSize": 12},
}


def _x(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _label(recipe: Data) -> str:
    return f"{recipe['number']} {recipe['name']}"


def _names(values: list[Spec]) -> Spec:
    """The axis of recipes, in their order, for horizontal bars."""
    return {"field": "recipe", "type": "nominal", "sort": [one["recipe"] for one in values], "title": None}


def bars(name: str, title: str, text: str, values: list[Spec], axis: str, start: float, **more: Any) -> Plot:
    """Horizontal bars from `start` to `value` with `low` to `high` as error bars; `mark` is a dashed line."""
    edges = [one[key] for one in values for key in ("value", "low", "high") if one.get(key) is not None]
    domain = more.get("domain") or [min([start, *edges]), max([start, *edges])]
    if domain[0] == domain[1]:
        domain = [domain[0], domain[0] + 1]
    scale = {"domain": domain, "nice": True, "zero": False}
    y, colour = _names(values), "var(--muted)" if more.get("muted") else "var(--bar)"
    own = {"values": [{**one, "start": start} for one in values]}
    x = _x("start", axis, scale=scale, axis={"tickCount": 5, **({"format": more["form"]} if "form" in more else {})})
    layers: list[Spec] = [
        {
            "data": own,
            "mark": {"type": "bar", "height": 9, "color": colour},
            "encoding": {"y": y, "x": x, "x2": {"field": "value"}},
        },
        {"data": own, "mark": "rule", "encoding": {"y": y, "x": _x("low", axis), "x2": {"field": "high"}}},
        {
            "data": own,
            "mark": {"type": "tick", "thickness": 2, "size": 13, "color": "var(--ink)"},
            "encoding": {"y": y, "x": _x("value", axis)},
        },
    ]
    for place, words in more.get("marks", []):
        layers += _line_at(place, words, axis)
    return draw(name, title, text, layers, max(40, BAND * len(values)))


def _line_at(place: float, words: str, axis: str) -> list[Spec]:
    own = {"values": [{"at": place, "words": words}]}
    dashed = {"type": "rule", "strokeDash": [4, 3], "color": "var(--ink)"}
    text = {"type": "text", "align": "left", "dx": 3, "dy": -5, "baseline": "bottom"}
    x = _x("at", axis)
    return [
        {"data": own, "mark": dashed, "encoding": {"x": x}},
        {"data": own, "mark": text, "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "words"}}},
    ]


def pareto(data: Data) -> Plot | None:
    """Recovery against throughput, with error bars on both, and the front."""
    load, chosen = data["decision"]["load"], data["decision"]["front"]
    values = []
    for recipe in data["recipes"] if load else []:
        point = point_at(recipe["throughput"], load["most"]) if recipe["name"] in load["recipes"] else None
        ratio, recovery = get(point, "ratios", "output_tokens_s"), get(recipe["accuracy"], "overall", "recovery")
        if get(ratio, "value") is None or get(recovery, "value") is None:
            continue
        low, high = recovery["interval"] or [recovery["value"]] * 2
        values.append(
            {"number": str(recipe["number"]), "recipe": recipe["name"], "x": ratio["value"], "y": recovery["value"]}
        )
        values[-1] |= {"left": ratio["interval"][0], "right": ratio["interval"][1], "low": low, "high": high}
        values[-1] |= {"front": recipe["name"] in chosen}
    if not values:
        return None
    x = _x(
        "x",
        f"output tokens/s at concurrency {load['most']}, times the model's",
        scale={"zero": False, "padding": 12},
        axis={"tickCount": 5},
    )
    y = {
        "field": "y",
        "type": "quantitative",
        "title": "recovery",
        "scale": {"zero": False, "padding": 12},
        "axis": {"tickCount": 6},
    }
    said = "; ".join(
        f"{one['recipe']} {one['y']:.3f} at {one['x']:.2f} times{', on the front' if one['front'] else ''}"
        for one in values
    )
    values.sort(key=lambda one: bool(one["front"]))  # the front is drawn on top
    own, front = (
        {"values": values},
        {"values": sorted((one for one in values if one["front"]), key=lambda one: one["x"])},
    )
    colour = {"condition": {"test": "datum.front", "value": "var(--front)"}, "value": "var(--muted-strong)"}
    edges = [1, *(one[key] for one in values for key in ("left", "right"))]
    # The model's name stands on the side where there is room.
    beside = {"align": "right", "dx": -4} if min(edges) + max(edges) < 2 else {"align": "left", "dx": 4}
    at_model = {"values": [{"x": 1, "y": 1, "words": "the model"}]}
    layers: list[Spec] = [
        {"data": at_model, "mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": x}},
        {"data": at_model, "mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": y}},
        {
            "data": at_model,
            "mark": {"type": "text", "dy": -6, **beside},
            "encoding": {"x": x, "y": y, "text": {"field": "words"}},
        },
        {
            "data": front,
            "mark": {"type": "line", "color": "var(--front)", "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y, "order": {"field": "x"}},
        },
        {"data": own, "mark": "rule", "encoding": {"x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": y}},
        {"data": own, "mark": "rule", "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "x": x}},
        {
            "data": own,
            "mark": {"type": "point", "filled": True, "size": 320, "opacity": 1, "stroke": "var(--paper)"},
            "encoding": {"x": x, "y": y, "color": colour},
        },
        {
            "data": own,
            "mark": {"type": "text", "color": "var(--paper)", "fontWeight": "bold"},
            "encoding": {"x": x, "y": y, "text": {"field": "number"}},
        },
    ]
    return draw("pareto", "Recovery against throughput", f"Recovery against throughput: {said}.", layers, 270, 420)


def tasks(data: Data) -> list[Plot]:
    """One panel a task: every recipe's recovery with its interval; greyed where the task carries no signal."""
    found: dict[str, list[Spec]] = {}
    silent: dict[str, bool] = {}
    for recipe in data["recipes"]:
        for task in get(recipe["accuracy"], "tasks", default=[]):
            recovery = task["recovery"]
            if recovery["value"] is None:
                continue
            low, high = recovery["interval"] or [recovery["value"]] * 2
            found.setdefault(task["task"], []).append(
                {"recipe": _label(recipe), "value": recovery["value"], "low": low, "high": high}
            )
            silent[task["task"]] = task["no_signal"]
    edges = [
        one[key] for name, values in found.items() if not silent[name] for one in values for key in ("low", "high")
    ]
    domain = [min([0.95, *edges]), max([1.05, *edges])]
    plots = []
    for number, (name, values) in enumerate(found.items()):
        title = f"{name}: no signal" if silent[name] else name
        text = f"Recovery on {title}: " + "; ".join(
            f"{one['recipe']} {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in values
        )
        own = {"domain": None if silent[name] else domain, "muted": silent[name], "marks": [(1.0, "")]}
        plots.append(bars(f"task-{number}", title, text, values, "recovery (1 = the model)", 1.0, **own))
    return plots


_DISTANCES = (
    ("kl", "KL divergence, nats", ".3~f", 0.0),
    ("flips", "Flipped answers", ".0%", 0.0),
    ("perplexity_ratio", "Perplexity over the model's", ".3~f", 1.0),
)


def distances(data: Data) -> list[Plot]:
    """KL and flips of every recipe over the suite, with the noise floor."""
    return [plot for name, title, form, start in _DISTANCES if (plot := _distance(data, name, title, form, start))]


def _distance(data: Data, name: str, title: str, form: str, start: float) -> Plot | None:
    values, floors = [], []
    for recipe in data["recipes"]:
        figure, floor = get(recipe["accuracy"], "overall", name), get(recipe["accuracy"], "noise_floor", name, "value")
        if get(figure, "value") is not None:
            low, high = figure["interval"] or [figure["value"]] * 2
            values.append({"recipe": _label(recipe), "value": figure["value"], "low": low, "high": high})
        floors += [floor] if floor is not None else []
    if not values:
        return None
    said = f"noise floor {max(floors):.2g}" if floors else "noise floor not measured"
    text = f"{title} by recipe, {said}: " + "; ".join(f"{one['recipe']} {one['value']:.4f}" for one in values)
    marks = [(max(floors), "noise floor")] if floors else []
    return bars(name, title, text, values, f"{title}; {said}", start, marks=marks, form=form)


def curves(data: Data) -> list[Plot]:
    """Throughput, TPOT and TTFT over concurrency, with the model as a band over all its measurements."""
    kinds = {"output_tokens_s": "Output tokens/s", "tpot_ms": "TPOT, ms", "ttft_ms": "TTFT, ms"}
    return [plot for metric, title in kinds.items() if (plot := _curve(data, metric, title))]


def _curve(data: Data, metric: str, title: str) -> Plot | None:
    load = data["decision"]["load"]
    lines, model = [], []
    for recipe in data["recipes"]:
        for point in (
            get(recipe["throughput"], "points", default=[]) if load and recipe["name"] in load["recipes"] else []
        ):
            if point["concurrency"] is None:
                continue
            own, base = (get(point[side], metric, "value") for side in ("candidate", "baseline"))
            at = {"concurrency": point["concurrency"], "recipe": recipe["name"], "number": str(recipe["number"])}
            lines += (
                [{**at, "value": own, "colour": f"var(--c{(recipe['number'] - 1) % COLOURS + 1})"}]
                if own is not None
                else []
            )
            model += [{"concurrency": point["concurrency"], "value": base}] if base is not None else []
    if not lines:
        return None
    levels = sorted({one["concurrency"] for one in lines})
    x: Spec = {
        "field": "concurrency",
        "type": "ordinal",
        "title": "concurrency",
        "sort": levels,
        "scale": {"padding": 0.3},
    }
    x["axis"] = {"labelAngle": 0, "grid": False}
    y = {"field": "value", "type": "quantitative", "title": title}
    last = [one for one in lines if one["concurrency"] == levels[-1]]
    layers: list[Spec] = []
    if model:
        band = {"x": x, "y": {**y, "aggregate": "min"}, "y2": {"field": "value", "aggregate": "max"}}
        middle = {"x": x, "y": {**y, "aggregate": "median"}}
        layers.append(
            {
                "data": {"values": model},
                "mark": {"type": "area", "color": "var(--muted)", "opacity": 0.35},
                "encoding": band,
            }
        )
        layers.append(
            {
                "data": {"values": model},
                "mark": {"type": "line", "strokeDash": [5, 3], "color": "var(--ink)"},
                "encoding": middle,
            }
        )
    layers += _lines(lines, last, x, y, max(one["value"] for one in [*lines, *model]))
    said = "; ".join(f"{one['recipe']} {one['value']:.1f}" for one in last)
    return draw(metric, title, f"{title} over concurrency; at {levels[-1]}: {said}.", layers, CURVE)


def _lines(lines: list[Spec], last: list[Spec], x: Spec, y: Spec, top: float) -> list[Spec]:
    """A line for each recipe with its number at the end; colours repeat after eight, dashed."""
    colour = {"field": "colour", "type": "nominal", "scale": None}
    each = {"x": x, "y": y, "color": colour, "detail": {"field": "recipe"}}
    dashes = {"condition": {"test": f"toNumber(datum.number) > {COLOURS}", "value": [6, 3]}, "value": [1, 0]}
    ends = {**each, "y": {**y, "field": "at"}, "text": {"field": "number"}}
    label = {"type": "text", "align": "left", "dx": 8, "fontWeight": "bold"}
    own = {"values": lines}
    return [
        {"data": own, "mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {**each, "strokeDash": dashes}},
        {"data": own, "mark": {"type": "point", "filled": True, "size": 26, "opacity": 1}, "encoding": each},
        {"data": {"values": _apart(last, top * 13 / CURVE)}, "mark": label, "encoding": ends},
    ]


def _apart(ends: list[Spec], step: float) -> list[Spec]:
    """The numbers at the lines' ends, moved up until none lies on another."""
    placed: list[Spec] = []
    for one in sorted(ends, key=lambda end: float(end["value"])):
        least = placed[-1]["at"] + step if placed else one["value"]
        placed.append({**one, "at": max(one["value"], least)})
    return placed


def sizes(data: Data) -> list[Plot]:
    """Bytes of the weights, and what the KV cache holds where the server said it."""
    values = [{"recipe": _label(one), "value": one["size"]["checkpoint_bytes"] / 1e6} for one in data["recipes"]]
    model = max(one["size"]["model_bytes"] for one in data["recipes"]) / 1e6
    text = f"Weights in MB, the model's {model:.0f}: " + "; ".join(
        f"{one['recipe']} {one['value']:.0f}" for one in values
    )
    found = [
        bars("size", "Weights, MB", text, values, "MB", 0.0, marks=[(model, "the model")], domain=[0, model * 1.25])
    ]
    kept = []
    for recipe in data["recipes"]:
        tokens = get(recipe["throughput"], "servers", "candidate", "kv_cache_tokens")
        kept += [{"recipe": _label(recipe), "value": tokens}] if tokens is not None else []
    if kept:
        text = "Tokens in the KV cache: " + "; ".join(f"{one['recipe']} {one['value']:,.0f}" for one in kept)
        found.append(bars("kv", "KV cache, tokens", text, kept, "tokens", 0.0, form="~s"))
    return found


def layer_errors(data: Data) -> Plot | None:
    lines = []
    for recipe in data["recipes"]:
        for layer, error in enumerate(get(recipe["layers"], "errors", default=[])):
            lines.append({"layer": layer, "value": error, "number": str(recipe["number"]), "recipe": recipe["name"]})
            lines[-1] |= {"colour": f"var(--c{(recipe['number'] - 1) % COLOURS + 1})"}
    if not lines:
        return None
    last = max(one["layer"] for one in lines)
    axis = {"tickMinStep": 1, "grid": False}
    x = _x("layer", "decoder layer", axis=axis, scale={"domain": [0, max(last, 1)]})
    y = {"field": "value", "type": "quantitative", "title": "relative squared error"}
    ends = [one for one in lines if one["layer"] == last]
    layers = _lines(lines, ends, x, y, max(one["value"] for one in lines))
    means = {one["recipe"]: [other["value"] for other in lines if other["recipe"] == one["recipe"]] for one in ends}
    said = "; ".join(f"{name} {sum(errors) / len(errors):.4f}" for name, errors in means.items())
    return draw(
        "layers",
        "Error by layer",
        f"Error that quantization adds to each decoder layer; means: {said}.",
        layers,
        CURVE,
        420,
    )
