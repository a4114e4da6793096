"""report.html in a real headless Chromium: nothing fails, overflows or is hard to read, at two widths in two themes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpress import report
from quantpress.report.facts import changes, collect
from quantpress.report.views import index
from quantpress.runtime import atomic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed (apt-get install chromium)")
SIZES = [(width, theme) for width in (1280, 400) for theme in ("light", "dark")]
KINDS = ("one", "twelve", "broken", "against", "nothing")
LEAST_CONTRAST = 4.5  # WCAG 2.2 level AA, text of normal size

# Text nodes whose colour is too near to the first opaque background behind them.
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
  const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  let count = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !e.getClientRects().length) continue;
    const svg = e.closest('svg'), style = getComputedStyle(e);
    let back = ground(svg ? svg.parentElement : e), front = parse(svg ? style.fill : style.color);
    if (svg && front.join() === back.join()) continue;  // the numbers inside the circles, checked on their own below
    const [a, b] = [lum(front), lum(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    count++;
    if (ratio < LEAST) found.push(`${ratio.toFixed(2)} ${e.tagName} ${text.slice(0, 40)}`);
  }
  return {count, found};
}""".replace("LEAST", str(LEAST_CONTRAST))

OVERFLOW = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') &&
  !e.parentElement.closest('.scroll, pre') && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => `${e.tagName}.${e.className} ${e.textContent.slice(0, 40)}`)"""

PLOTS = """() => [...document.querySelectorAll('figure')].map(f => { const s = f.querySelector('svg');
  const marks = [...s.querySelectorAll('path, line, text')].filter(m => { const b = m.getBoundingClientRect();
    return b.width + b.height > 2; });
  const b = s.getBoundingClientRect();
  return {name: f.dataset.plot, width: b.width, height: b.height, marks: marks.length,
          role: s.getAttribute('role'), label: s.getAttribute('aria-label')}; })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (requirements/dev.lock)"
    )
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(artifacts: Callable[..., Path]) -> dict[str, Path]:
    """Reports of one recipe, of twelve, with failed and missing stages, against an older one, with nothing measured."""
    folders = {"one": artifacts(1), "twelve": artifacts(12), "broken": artifacts(4, fresh=True)}
    first, second, third, _ = sorted(path for path in folders["broken"].iterdir())
    (first / "accuracy.json").unlink()
    atomic.write_text(second / "accuracy.json", '{"schema_version": 4,')
    atomic.write_text(third / "manifest.json", "{}")
    atomic.write_text(folders["broken"] / "logs" / f"{'n' * 60}.quantize.log", "")
    folders["nothing"] = artifacts(2, fresh=True)
    for path in folders["nothing"].glob("*/*.json"):
        if path.name != "manifest.json":
            path.unlink()
    data = {name: collect.collect(folder, None) for name, folder in folders.items()}
    for name, folder in folders.items():
        report.write(folder, data[name])
    folders["against"] = artifacts(12, seed=8)
    newer = collect.collect(folders["against"], None)
    moved = changes.moved_since(data["twelve"], newer, "old/report.json")
    report.write(folders["against"], newer.model_copy(update={"moved": moved}))
    return {name: folder / "report.html" for name, folder in folders.items()}


@pytest.fixture(
    scope="module", params=[(kind, *size) for kind in KINDS for size in SIZES], ids=lambda one: "-".join(map(str, one))
)
def page(request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """The page with everything unfolded; its console and its requests are kept."""
    kind, width, theme = request.param
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(pages[kind].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    yield page
    page.close()


def test_nothing_fails_and_nothing_is_fetched(page: Any) -> None:
    assert page.said == []
    assert page.asked == [page.url]


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_plot_is_drawn_and_says_what_it_shows(page: Any, request: pytest.FixtureRequest) -> None:
    plots = page.evaluate(PLOTS)
    assert len({plot["name"] for plot in plots}) == len(plots) > 0
    for plot in plots:
        assert plot["width"] > 250, plot
        assert plot["height"] > 40, plot
        assert plot["marks"] > 5, plot
        assert plot["role"] == "img", plot
        assert len(plot["label"]) > 20, plot


def test_every_text_has_contrast(page: Any) -> None:
    found = page.evaluate(CONTRAST)
    assert found["count"] > 50
    assert found["found"] == []


def test_headings_language_and_names_for_screen_readers(page: Any) -> None:
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.querySelector('th[scope=col]'))")
    assert page.evaluate("[...document.querySelectorAll('[role=region]')].every(r => r.getAttribute('aria-label'))")
    identities = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(identities)) == len(identities)
    assert page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))")


def test_the_keyboard_reaches_tables_and_links(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(pages["twelve"].as_uri())
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    assert reached >= {"DIV", "A", "SUMMARY"}
    page.close()


def test_themes_differ_and_follow_the_reader(browser: Any, pages: dict[str, Path]) -> None:
    grounds = []
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        page.goto(pages["one"].as_uri())
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert grounds == ["rgb(243, 245, 247)", "rgb(15, 18, 21)"]


def test_the_first_screen_answers(browser: Any, pages: dict[str, Path]) -> None:
    """At 1280 x 800 the three answers and how sure they are lie above the fold."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    for kind in ("one", "twelve", "broken", "nothing"):
        page.goto(pages[kind].as_uri())
        bottoms = page.evaluate(
            "[...document.querySelectorAll('.card, .panel:first-of-type')].map(e => e.getBoundingClientRect().bottom)"
        )
        assert len(page.query_selector_all(".card")) == 3
        assert max(bottoms) < 800
    page.close()


def test_the_index_of_several_models_leads_to_their_reports(browser: Any, artifacts: Callable[..., Path]) -> None:
    folder = artifacts(2)
    data = collect.collect(folder, None)
    report.write(folder, data)
    index.write(folder.parent, [(folder, data), (folder, data)])
    page = browser.new_page()
    page.goto((folder.parent / "index.html").as_uri())
    page.click("h2 a")
    assert page.title().endswith("which recipe to deploy")
    page.close()
