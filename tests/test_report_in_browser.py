"""The report in Chromium: it loads, nothing is missing, nothing overflows."""

import shutil

import pytest

from keras_lwsam import plots
from tests import recorded

pytestmark = pytest.mark.browser

ARGUMENTS = (
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1200, 390)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    recorded.write(folder / "one", recorded.run("<script>alert(1)</script>"))
    long = tuple(f"{'network/' * 12}{i}" for i in range(30))
    recorded.write(folder / "two", recorded.run("n" * 300, layers=long))
    return plots.report(folder).as_uri()


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    found = [path for path in map(shutil.which, PROGRAMS) if path]
    if not found:
        pytest.fail(
            "These tests need Chromium: install it, on Debian with "
            f"`apt-get install chromium`. None of {PROGRAMS} was found."
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found[0],
            args=ARGUMENTS,
            # A container's root has no sandbox to be in.
            chromium_sandbox=False,
        )
        yield launched
        launched.close()


@pytest.fixture(params=WIDTHS)
def page(browser, address, request):
    """The report, loaded in a window of a width in CSS pixels.

    What it logs, and what it asks for, is in its `logged` and `requested`.
    """
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    opened.logged, opened.requested = [], []
    opened.on("console", lambda message: opened.logged.append(message.text))
    opened.on("pageerror", lambda error: opened.logged.append(str(error)))
    opened.on("request", lambda sent: opened.requested.append(sent.url))
    opened.goto(address)
    assert opened.evaluate("window.innerWidth") == request.param
    yield opened
    opened.close()


def test_nothing_is_complained_about(page):
    assert page.logged == []
    assert page.evaluate("document.compatMode") == "CSS1Compat"


def test_control_what_the_policy_forbids_is_complained_about(page):
    page.evaluate(
        "document.body.append(Object.assign(new Image(), "
        "{src: 'https://127.0.0.1:9/none.png'}))"
    )
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in text for text in page.logged)


def test_every_picture_is_seen(page):
    pictures = page.evaluate(
        "[...document.images].map(image => ["
        "image.complete, image.naturalWidth, image.checkVisibility(),"
        "image.getBoundingClientRect().width,"
        "image.getBoundingClientRect().height, image.alt.length])"
    )
    assert len(pictures) > 20
    for complete, natural, visible, width, height, words in pictures:
        assert complete
        assert visible
        assert natural > 0
        assert min(width, height) > 100.0
        assert words > 0


def test_the_document_does_not_overflow(page):
    scrolled, shown = page.evaluate(
        "[document.documentElement.scrollWidth, "
        "document.documentElement.clientWidth]"
    )
    assert scrolled <= shown
    outside = page.evaluate(
        "[...document.querySelectorAll("
        "'h1, h2, h3, p, nav, figcaption, .scroll')].filter(element => "
        "element.getBoundingClientRect().right > window.innerWidth + 0.5)"
        ".map(element => element.outerHTML.slice(0, 99))"
    )
    assert outside == []


def test_contents_lead_somewhere(page):
    links = page.evaluate(
        "[...document.querySelectorAll('nav a')].map(link => "
        "[link.href, !!document.getElementById("
        "link.getAttribute('href').slice(1))])"
    )
    assert [href for href, leads in links if not leads] == []
    assert len(links) > 10
    page.locator("nav a").last.click()
    top = page.evaluate(
        "document.querySelector(':target').getBoundingClientRect().top"
    )
    assert top < 900.0


def test_nothing_is_requested(page, address):
    asked = [u for u in page.requested if not u.startswith("data:")]
    assert asked == [address]
