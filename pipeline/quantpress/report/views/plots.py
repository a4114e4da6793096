"""The report's plots as Vega-Lite specifications, drawn to SVG without a browser, a script or the network.

Colours are the page's CSS variables, so one drawing serves the light and the dark theme. Each plot carries a text that
says what it shows; the figures themselves are in the tables.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quantpress.errors import CapabilityError
from quantpress.report.facts.comparable import compared_suite, is_on_suite
from quantpress.report.facts.data import Figure, Load, Paired, Recipe, Report, Spread

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


def _quantity(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _label(recipe: Recipe) -> str:
    return f"{recipe.number} {recipe.name}"


def _colour(recipe: Recipe) -> str:
    return f"var(--c{(recipe.number - 1) % COLOURS + 1})"


@dataclass(frozen=True)
class Bar:
    """One recipe's bar, with the ends of its error bar; what is counted and not estimated has none."""

    recipe: str
    value: float
    low: float
    high: float
    exact: bool = False

    def row(self) -> Spec:
        edges = {} if self.exact else {"low": self.low, "high": self.high}
        return {"recipe": self.recipe, "value": self.value, **edges}


@dataclass(frozen=True)
class Axis:
    """The axis of bars that begin at `start`: its title, dashed lines with a word at each, d3's form of its numbers."""

    title: str
    start: float
    domain: tuple[float, float] | None = None
    lines: Sequence[tuple[float, str]] = ()
    form: str | None = None


def _bar(recipe: Recipe, figure: Figure) -> Bar | None:
    return Bar(_label(recipe), *figure.with_edges) if figure.with_edges else None


def bars(name: str, title: str, text: str, drawn: list[Bar], axis: Axis, muted: bool = False) -> Plot:
    """Horizontal bars, one a recipe, with error bars."""
    edges = [axis.start, *(edge for bar in drawn for edge in (bar.value, bar.low, bar.high))]
    least, greatest = axis.domain or (min(edges), max(edges))
    scale = {"domain": [least, greatest if greatest > least else least + 1], "nice": True, "zero": False}
    ticks = {"tickCount": 5, **({"format": axis.form} if axis.form else {})}
    own = {"values": [{**bar.row(), "start": axis.start} for bar in drawn]}
    # The recipes in their order.
    y = {"field": "recipe", "type": "nominal", "sort": [bar.recipe for bar in drawn], "title": None}
    thick = {"type": "bar", "height": 9, "color": "var(--muted)" if muted else "var(--bar)"}
    tick = {"type": "tick", "thickness": 2, "size": 13, "color": "var(--ink)"}
    x = _quantity("start", axis.title, scale=scale, axis=ticks)
    layers: list[Spec] = [
        {"data": own, "mark": thick, "encoding": {"y": y, "x": x, "x2": {"field": "value"}}},
        {"data": own, "mark": "rule", "encoding": {"y": y, "x": _quantity("low", axis.title), "x2": {"field": "high"}}},
        {"data": own, "mark": tick, "encoding": {"y": y, "x": _quantity("value", axis.title)}},
    ]
    for place, words in axis.lines:
        layers += _line_at(place, words, axis.title)
    return draw(name, title, text, layers, max(40, BAND * len(drawn)))


def _line_at(place: float, words: str, axis: str) -> list[Spec]:
    own = {"values": [{"at": place, "words": words}]}
    dashed = {"type": "rule", "strokeDash": [4, 3], "color": "var(--ink)"}
    text = {"type": "text", "align": "left", "dx": 3, "dy": -5, "baseline": "bottom"}
    x = _quantity("at", axis)
    return [
        {"data": own, "mark": dashed, "encoding": {"x": x}},
        {"data": own, "mark": text, "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "words"}}},
    ]


@dataclass(frozen=True)
class _Spot:
    """A recipe in the plane of throughput and recovery, with the ends of its error bars."""

    number: str
    recipe: str
    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    front: bool


def pareto(report: Report) -> Plot | None:
    """Recovery against throughput, with error bars on both, and the front."""
    load = report.decision.load
    spots = _spots(report, load) if load else []
    if load is None or not spots:
        return None
    said = "; ".join(
        f"{spot.recipe} {spot.y:.3f} at {spot.x:.2f} times{', on the front' if spot.front else ''}" for spot in spots
    )
    scale = {"zero": False, "padding": 12}
    title = f"output tokens/s at concurrency {load.most}, times the model's"
    x = _quantity("x", title, scale=scale, axis={"tickCount": 5})
    y = _quantity("y", "recovery", scale=scale, axis={"tickCount": 6})
    layers = [*_the_model(spots, x, y), _front_line(spots, x, y), *_numbered(spots, x, y)]
    return draw("pareto", "Recovery against throughput", f"Recovery against throughput: {said}.", layers, 270, 420)


def _spots(report: Report, load: Load) -> list[_Spot]:
    """Every recipe of which both are known, under the load and on the suite that are compared."""
    spots, suite = [], compared_suite(report.recipes)
    for recipe in report.recipes:
        ratio = recipe.ratio(load.most, "output_tokens_s") if recipe.name in load.recipes else None
        recovery = recipe.overall.recovery.with_edges if recipe.overall and is_on_suite(recipe, suite) else None
        if ratio and recovery:
            (left, right), (value, low, high) = ratio.interval or (ratio.value, ratio.value), recovery
            on_front = recipe.name in report.decision.front
            at = (ratio.value, value, left, right, low, high)
            spots.append(_Spot(str(recipe.number), recipe.name, *at, on_front))
    return spots


def _the_model(spots: list[_Spot], x: Spec, y: Spec) -> list[Spec]:
    """Dashed lines through the model's own place, with its name on the side where there is room."""
    edges = [1, *(edge for spot in spots for edge in (spot.left, spot.right))]
    beside = {"align": "right", "dx": -4} if min(edges) + max(edges) < 2 else {"align": "left", "dx": 4}
    own = {"values": [{"x": 1, "y": 1, "words": "the model"}]}
    dashed = {"type": "rule", "strokeDash": [4, 3]}
    name = {"type": "text", "dy": -6, **beside}
    return [
        {"data": own, "mark": dashed, "encoding": {"x": x}},
        {"data": own, "mark": dashed, "encoding": {"y": y}},
        {"data": own, "mark": name, "encoding": {"x": x, "y": y, "text": {"field": "words"}}},
    ]


def _front_line(spots: list[_Spot], x: Spec, y: Spec) -> Spec:
    """What joins the recipes on the front."""
    values = [asdict(spot) for spot in sorted(spots, key=lambda spot: spot.x) if spot.front]
    mark = {"type": "line", "color": "var(--front)", "strokeWidth": 1.5}
    return {"data": {"values": values}, "mark": mark, "encoding": {"x": x, "y": y, "order": {"field": "x"}}}


def _numbered(spots: list[_Spot], x: Spec, y: Spec) -> list[Spec]:
    """Error bars, and on them a disc with each recipe's number; those of the front are drawn on top."""
    own = {"values": [asdict(spot) for spot in sorted(spots, key=lambda spot: spot.front)]}
    colour = {"condition": {"test": "datum.front", "value": "var(--front)"}, "value": "var(--muted-strong)"}
    disc = {"type": "point", "filled": True, "size": 320, "opacity": 1, "stroke": "var(--paper)"}
    number = {"type": "text", "color": "var(--paper)", "fontWeight": "bold"}
    return [
        {"data": own, "mark": "rule", "encoding": {"x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": y}},
        {"data": own, "mark": "rule", "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, "x": x}},
        {"data": own, "mark": disc, "encoding": {"x": x, "y": y, "color": colour}},
        {"data": own, "mark": number, "encoding": {"x": x, "y": y, "text": {"field": "number"}}},
    ]


def tasks(report: Report) -> list[Plot]:
    """One panel a task: every recipe's recovery with its interval; greyed where the task carries no signal."""
    by_task: dict[str, list[Bar]] = {}
    silent: dict[str, bool] = {}
    for recipe in report.recipes:
        for task in recipe.accuracy.tasks if recipe.accuracy else []:
            if bar := _bar(recipe, task.recovery):
                by_task.setdefault(task.task, []).append(bar)
                silent[task.task] = task.no_signal
    shown = [bar for name, drawn in by_task.items() if not silent[name] for bar in drawn]
    domain = (min([0.95, *(bar.low for bar in shown)]), max([1.05, *(bar.high for bar in shown)]))
    plots = []
    for number, (name, drawn) in enumerate(by_task.items()):
        title = f"{name}: no signal" if silent[name] else name
        said = "; ".join(f"{bar.recipe} {bar.value:.3f} ({bar.low:.3f} to {bar.high:.3f})" for bar in drawn)
        axis = Axis("recovery (1 = the model)", 1.0, domain=None if silent[name] else domain, lines=[(1.0, "")])
        text = f"Recovery on {title}: {said}"
        plots.append(bars(f"task-{number}", title, text, drawn, axis, muted=silent[name]))
    return plots


_DISTANCES = (
    ("kl", "KL divergence, nats", ".3~f", 0.0),
    ("flips", "Flipped answers", ".0%", 0.0),
    ("perplexity_ratio", "Perplexity over the model's", ".3~f", 1.0),
)


def distances(report: Report) -> list[Plot]:
    """KL and flips of every recipe over the suite that is compared, with the noise floor."""
    plots = (_distance(report, name, title, form, start) for name, title, form, start in _DISTANCES)
    return [plot for plot in plots if plot]


def _distance(report: Report, name: str, title: str, form: str, start: float) -> Plot | None:
    drawn, floors, suite = [], [], compared_suite(report.recipes)
    for recipe in report.recipes:
        if recipe.accuracy is None or not is_on_suite(recipe, suite):
            continue
        if bar := _bar(recipe, _figure(recipe.accuracy.overall, name)):
            drawn.append(bar)
        floor = recipe.accuracy.noise_floor
        if floor and (value := _figure(floor, name).value) is not None:
            floors.append(value)
    if not drawn:
        return None
    said = f"noise floor {max(floors):.2g}" if floors else "noise floor not measured"
    text = f"{title} by recipe, {said}: " + "; ".join(f"{bar.recipe} {bar.value:.4f}" for bar in drawn)
    lines = [(max(floors), "noise floor")] if floors else []
    return bars(name, title, text, drawn, Axis(f"{title}; {said}", start, lines=lines, form=form))


def _figure(paired: Paired, name: str) -> Figure:
    figure: Figure = getattr(paired, name)
    return figure


def curves(report: Report) -> list[Plot]:
    """Throughput, TPOT and TTFT over concurrency, with the model as a band over all its measurements."""
    kinds = {"output_tokens_s": "Output tokens/s", "tpot_ms": "TPOT, ms", "ttft_ms": "TTFT, ms"}
    return [plot for metric, title in kinds.items() if (plot := _curve(report, metric, title))]


def _curve(report: Report, metric: str, title: str) -> Plot | None:
    lines, model = _measurements(report, metric)
    if not lines:
        return None
    levels = sorted({end["concurrency"] for end in lines})
    x: Spec = {"field": "concurrency", "type": "ordinal", "title": "concurrency", "sort": levels}
    x |= {"scale": {"padding": 0.3}, "axis": {"labelAngle": 0, "grid": False}}
    y = _quantity("value", title)
    ends = [end for end in lines if end["concurrency"] == levels[-1]]
    top = max(end["value"] for end in [*lines, *model])
    said = "; ".join(f"{end['recipe']} {end['value']:.1f}" for end in ends)
    text = f"{title} over concurrency; at {levels[-1]}: {said}."
    return draw(metric, title, text, [*_band(model, x, y), *_lines(lines, ends, x, y, top)], CURVE)


def _measurements(report: Report, metric: str) -> tuple[list[Spec], list[Spec]]:
    """The recipes' figures under the compared load, and the model's beside each."""
    own, model = [], []
    load = report.decision.load
    for recipe in report.recipes:
        speed = recipe.throughput if load and recipe.name in load.recipes else None
        for point in speed.points if speed else []:
            if point.concurrency is None:
                continue
            at = {"concurrency": point.concurrency}
            if (value := _middle(point.candidate, metric)) is not None:
                named = {"recipe": recipe.name, "number": str(recipe.number), "colour": _colour(recipe)}
                own.append({**at, **named, "value": value})
            if (value := _middle(point.baseline, metric)) is not None:
                model.append({**at, "value": value})
    return own, model


def _middle(side: dict[str, Spread] | None, metric: str) -> float | None:
    return side[metric].value if side else None


def _band(model: list[Spec], x: Spec, y: Spec) -> list[Spec]:
    """The model: its median, and the range of its measurements."""
    if not model:
        return []
    own = {"values": model}
    area = {"type": "area", "color": "var(--muted)", "opacity": 0.35}
    dashed = {"type": "line", "strokeDash": [5, 3], "color": "var(--ink)"}
    span = {"x": x, "y": {**y, "aggregate": "min"}, "y2": {"field": "value", "aggregate": "max"}}
    return [
        {"data": own, "mark": area, "encoding": span},
        {"data": own, "mark": dashed, "encoding": {"x": x, "y": {**y, "aggregate": "median"}}},
    ]


def _lines(lines: list[Spec], ends: list[Spec], x: Spec, y: Spec, top: float) -> list[Spec]:
    """A line for each recipe with its number at the end; colours repeat after eight, dashed."""
    colour = {"field": "colour", "type": "nominal", "scale": None}
    each = {"x": x, "y": y, "color": colour, "detail": {"field": "recipe"}}
    dashes = {"condition": {"test": f"toNumber(datum.number) > {COLOURS}", "value": [6, 3]}, "value": [1, 0]}
    numbers = {**each, "y": {**y, "field": "at"}, "text": {"field": "number"}}
    label = {"type": "text", "align": "left", "dx": 8, "fontWeight": "bold"}
    own = {"values": lines}
    return [
        {"data": own, "mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {**each, "strokeDash": dashes}},
        {"data": own, "mark": {"type": "point", "filled": True, "size": 26, "opacity": 1}, "encoding": each},
        {"data": {"values": apart(ends, top * 13 / CURVE)}, "mark": label, "encoding": numbers},
    ]


def apart(ends: list[Spec], step: float) -> list[Spec]:
    """The numbers at the lines' ends, moved up until none lies on another: `at` is where each stands."""
    placed: list[Spec] = []
    for end in sorted(ends, key=lambda end: float(end["value"])):
        least = placed[-1]["at"] + step if placed else end["value"]
        placed.append({**end, "at": max(end["value"], least)})
    return placed


def sizes(report: Report) -> list[Plot]:
    """Bytes of the weights, and what the KV cache holds where the server said it."""
    model = max(recipe.size.model_bytes for recipe in report.recipes) / 1e6
    weights = [_exact(recipe, recipe.size.checkpoint_bytes / 1e6) for recipe in report.recipes]
    text = f"Weights in MB, the model's {model:.0f}: " + "; ".join(f"{bar.recipe} {bar.value:.0f}" for bar in weights)
    axis = Axis("MB", 0.0, domain=(0, model * 1.25), lines=[(model, "the model")])
    plots = [bars("size", "Weights, MB", text, weights, axis)]
    caches = []
    for recipe in report.recipes:
        tokens = recipe.throughput.servers.candidate.kv_cache_tokens if recipe.throughput else None
        caches += [_exact(recipe, tokens)] if tokens is not None else []
    if caches:
        text = "Tokens in the KV cache: " + "; ".join(f"{bar.recipe} {bar.value:,.0f}" for bar in caches)
        plots.append(bars("kv", "KV cache, tokens", text, caches, Axis("tokens", 0.0, form="~s")))
    return plots


def _exact(recipe: Recipe, value: float) -> Bar:
    return Bar(_label(recipe), value, value, value, exact=True)


def layer_errors(report: Report) -> Plot | None:
    measured = [(recipe, recipe.layers.errors) for recipe in report.recipes if recipe.layers]
    lines = [
        {"layer": layer, "value": error}
        | {"number": str(recipe.number), "recipe": recipe.name, "colour": _colour(recipe)}
        for recipe, errors in measured
        for layer, error in enumerate(errors)
    ]
    if not lines:
        return None
    last = max(len(errors) for _, errors in measured) - 1
    x = _quantity("layer", "decoder layer", axis={"tickMinStep": 1, "grid": False}, scale={"domain": [0, max(last, 1)]})
    y = _quantity("value", "relative squared error")
    ends = [end for end in lines if end["layer"] == last]
    layers = _lines(lines, ends, x, y, max(error for _, errors in measured for error in errors))
    means = "; ".join(
        f"{recipe.name} {sum(errors) / len(errors):.4f}" for recipe, errors in measured if len(errors) == last + 1
    )
    text = f"Error that quantization adds to each decoder layer; means: {means}."
    return draw("layers", "Error by layer", text, layers, CURVE, 420)
