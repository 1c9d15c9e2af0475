"""The page in a real browser: offline, drawn, filtered by mouse and keyboard, light and dark, on a phone, with tables.

Without Chromium and its driver these tests are skipped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.results.browser import Browser, browser
from tests.results.campaign import Reported

pytestmark = needs.mark(needs.BROWSER)

CHARTS = {
    "forest", "ecdf", "tail", "load_p50", "load_p99", "load_failed", "load_achieved", "latency", "throughput", "heat",
    "cold", "phases", "waterfall", "outcomes", "delays", "delivery_rates", "scaling", "machines",
}  # fmt: skip
PIXELS = {"forest", "ecdf", "heat", "cold", "phases", "outcomes"}  # one of each kind: a screenshot takes its time
COLOURS = "return getComputedStyle(document.querySelector('{}')).{}"


@pytest.fixture(scope="module")
def page(reported: Reported) -> Path:
    return reported.page


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def opened(tab: Browser, page: Path) -> Browser:
    """The page on a wide, light screen, without filters; loaded again only if needed."""
    if tab.showing != (page, 1280, False):
        tab.open(page)
    tab.js("document.querySelector('#filters button[type=reset]').click()")
    tab.js("return new Promise(done => setTimeout(done))")
    tab.drawn()
    return tab


def colours(png: bytes) -> int:
    """The number of different colours of a PNG (8 bits, no palette, not interlaced) has."""
    position, data, channels, width = 8, b"", 3, 0
    while position < len(png):
        size, kind = struct.unpack(">I4s", png[position : position + 8])
        body = png[position + 8 : position + 8 + size]
        if kind == b"IHDR":
            width, channels = struct.unpack(">I", body[:4])[0], {2: 3, 6: 4}[body[9]]
        elif kind == b"IDAT":
            data += body
        position += size + 12
    raw, stride = zlib.decompress(data), width * channels + 1
    # Filtered rows: equal neighbours are zeros. What is not blank has many different bytes.
    return len({raw[row + 1 : row + stride] for row in range(0, len(raw), stride)})


def test_it_opens_without_requests_and_console_messages(tab: Browser, page: Path) -> None:
    tab.console(), tab.requests()
    tab.open(page)
    assert tab.console() == []
    assert [url for url in tab.requests() if url not in (page.as_uri(), "data:,")] == []


def test_every_chart_is_drawn(opened: Browser) -> None:
    figures = {figure.get_attribute("data-chart"): figure for figure in opened.all(".chart")}
    assert figures.keys() == CHARTS
    for name, figure in figures.items():
        plots = figure.find_elements("css selector", ".plot svg")
        assert plots, name
        marks = (
            "return [...arguments[0].querySelectorAll('.plot svg .mark-group path, .plot svg [class*=mark-]')].length"
        )
        assert opened.js(marks, figure) > 5, name
        label = "return arguments[0].querySelector('svg').getAttribute('aria-label') || arguments[0].ariaLabel"
        assert opened.js(label, figure.find_element("css selector", ".plot")), name
        if name not in PIXELS:
            continue
        assert colours(opened.picture(figure.find_element("css selector", ".plot"))) > 20, f"{name} is blank"


def test_all_of_the_panels_on_demand(opened: Browser) -> None:
    (figure,) = opened.all("[data-chart=latency]")
    assert len(figure.find_elements("css selector", ".panel")) == 6
    more = figure.find_element("css selector", ".more")
    assert more.text == "Show all 32"
    opened.js("arguments[0].click()", more)
    opened.drawn()
    assert len(figure.find_elements("css selector", ".plot svg")) == 32
    assert not more.is_displayed()


def test_filters_by_mouse(opened: Browser) -> None:
    def legend() -> list[str]:
        return opened.js(
            "return [...document.querySelectorAll('[data-chart=ecdf] > .key span')].map(e => e.textContent)"
        )

    assert legend() == ["go", "python", "quarkus", "rust", "springboot", "ts", "broker broker-ingress.knative"]
    opened.js("scrollTo(0, 0)")
    for box in opened.all("[data-filter=language] label"):
        if box.text not in ("go", "ts"):
            box.click()
    opened.drawn()
    assert legend() == ["go", "ts"]
    assert opened.js("return document.getElementById('shown').textContent").endswith("table rows")
    rows = "return [...document.querySelectorAll('tr[data-language]:not([hidden])')].map(e => e.dataset.language)"
    assert set(opened.js(rows)) <= {"go", "ts", "all"}
    opened.all("#filters button[type=reset]")[0].click()
    opened.drawn()
    assert len(legend()) == 7
    assert opened.console() == []


def test_filters_by_keyboard(opened: Browser) -> None:
    (box, *_) = opened.all("[data-filter=scenario] input[value=serving-scenario-1]")
    opened.js("arguments[0].focus()", box)
    outline = "return getComputedStyle(arguments[0].nextElementSibling).outlineStyle"
    box.send_keys(" ")
    assert opened.js(outline, box) == "solid", "the focus shows"
    opened.drawn()
    titles = opened.js("return [...document.querySelectorAll('[data-chart=ecdf] h4')].map(e => e.textContent)")
    assert titles and not any("scenario-1" in title for title in titles)
    box.send_keys(" ")
    box.send_keys("\t")
    assert opened.js("return document.activeElement.value") == "serving-scenario-2"
    assert opened.console() == []


def test_filters_that_leave_no_data(opened: Browser) -> None:
    opened.js("document.querySelectorAll('[data-filter=language] input').forEach(box => box.click())")
    opened.drawn()
    assert "The filters leave no data." in opened.all("[data-chart=ecdf]")[0].text
    assert opened.console() == []


def test_tooltips(opened: Browser) -> None:
    move = """
      const plot = document.querySelector('[data-chart=ecdf] .plot');
      plot.scrollIntoView({behavior: 'instant', block: 'center'});
      const svg = plot.querySelector('svg'), box = svg.getBoundingClientRect();
      const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true};
      const target = document.elementFromPoint(at.clientX, at.clientY);
      for (const kind of ['pointerover', 'pointermove', 'mousemove']) target.dispatchEvent(new PointerEvent(kind, at));
      return new Promise(done => setTimeout(() => done(document.getElementById('vg-tooltip-element')?.innerText), 300));
    """
    text = opened.js(move)
    assert text and "TTFB (ms)" in text and "language" in text


def test_each_chart_has_its_data_and_its_sql(opened: Browser) -> None:
    for figure in opened.all(".chart"):
        name = figure.get_attribute("data-chart")
        opened.js("arguments[0].querySelectorAll('details').forEach(each => { each.open = true; })", figure)
    opened.js("return new Promise(done => setTimeout(done, 200))")
    for figure in opened.all(".chart"):
        name = figure.get_attribute("data-chart")
        assert figure.find_elements("css selector", ".numbers th[scope=col]"), name
        assert figure.find_elements("css selector", ".numbers tbody tr"), name
        assert "SELECT" in figure.find_element("css selector", ".sql code").text, name


def luminance(colour: str) -> float:
    red, green, blue = (int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_light_and_dark(tab: Browser, page: Path) -> None:
    seen = {}
    for dark in (False, True):
        tab.open(page, dark=dark)
        ground = tab.js(COLOURS.format("body", "backgroundColor"))
        ink = tab.js(COLOURS.format("body", "color"))
        label = tab.js(COLOURS.format(".plot svg .role-axis-label text", "fill"))
        line = tab.js(COLOURS.format("[data-chart=ecdf] .plot svg .mark-line path", "stroke"))
        seen[dark] = line
        assert (luminance(ground) < 60) is dark
        assert abs(luminance(ink) - luminance(ground)) > 120
        assert abs(luminance(label) - luminance(ground)) > 80, "the axes can be read"
    assert seen[False] != seen[True]


def test_print_is_light_also_when_the_screen_is_dark(tab: Browser, page: Path) -> None:
    if tab.showing != (page, 1280, True):
        tab.open(page, dark=True)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        assert luminance(tab.js(COLOURS.format("body", "backgroundColor"))) > 240
        assert luminance(tab.js(COLOURS.format(".plot svg .role-axis-label text", "fill"))) < 120
        assert not any(button.is_displayed() for button in tab.all("#filters, nav"))
    finally:
        tab.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_phone(tab: Browser, page: Path) -> None:
    tab.open(page, width=390)
    assert tab.js("return document.documentElement.scrollWidth") == 390, "nothing sticks out"
    widths = tab.js("return [...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().width)")
    assert 200 < min(widths) and max(widths) <= 390
    assert tab.console() == []
