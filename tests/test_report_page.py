"""The page in a real browser."""

import os
import re
import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from embmerge.report import report
from tests.mergedsets import articles_of
from tests.test_report import ROWS, SHARDS, merged, rows_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and DRIVER):
        if os.environ.get("CI"):
            pytest.fail("CI needs chromium and chromedriver")
        pytest.skip("no chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rows = rows_of()
    rows[137, 5] = np.nan
    rows[900] = rows[33]
    rows[400:600] *= 1.5
    return report(merged(tmp_path_factory.mktemp("report"), rows)).output


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    return browser


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows(opened, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    inner, outer = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert inner <= outer


def test_the_console_is_silent(opened):
    assert opened.get_log("browser") == []


def test_every_figure_is_drawn(opened):
    widths = opened.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3 + SHARDS
    assert all(widths)


def test_the_verdict_comes_first(opened):
    assert opened.find_element("css selector", "#verdict").text.startswith("Do not use this file")


@pytest.mark.parametrize(
    "planted", ["1 row with NaN, Inf or a norm beyond all use: 137", "equal to an earlier one", "is unlike the others"]
)
def test_what_was_planted_is_called_out(opened, planted):
    findings = opened.find_element("css selector", ".findings").text
    assert planted in findings


def test_dark_and_light_differ(opened):
    colours = set()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours.add(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_the_page_asks_nobody_for_anything(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert 'src="http' not in text


@pytest.mark.parametrize(
    "said",
    [
        'class="verdict error"',
        "<div>articles<b>1,200</b>",
        "<div>dimensions<b>24</b>",
        '<rect x="166.67" y="0" width="166.67" height="20" fill="#e69f00"',
        '<span style="flex:1200 1 0">tensor01</span>',
        '<td class="n">200</td><td class="n">400</td><td class="n">200</td>',
        "<summary>NaN or Inf: 1 row</summary>.{,99}<th>title</th></tr></thead><tbody><tr><td>137</td>",
        "<p>All zeros: 0 rows</p>",
        "<tbody><tr><td>900</td><td>[^<]*</td><td>33</td><td>[^<]*</td></tr></tbody>",
        "<p>Near-duplicate shards: 0</p>",
        "<code>0{64}</code>",
    ],
)
def test_the_page_says_what_the_figures_are(page, said):
    assert re.search(said, page.read_text())


def test_titles_cannot_become_markup(tmp_path, browser, monkeypatch):
    title = "<img src=x onerror=alert(1)>"
    articles = [{**article, "title": title} for article in articles_of(ROWS)]
    monkeypatch.setattr("tests.test_report.articles_of", lambda _count: articles)
    browser.get(report(merged(tmp_path, rows_of())).output.as_uri())
    assert title in browser.find_element("css selector", "h3.article").text
    assert browser.find_elements("css selector", "img[src=x]") == []
