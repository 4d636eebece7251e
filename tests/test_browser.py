"""The site and the explorer's sliders in a real Chromium, headless, without a network beyond this machine."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS = os.environ.get("SGDSIM_SCREENSHOTS")  # a folder: pictures of every page looked at
EXPLORER = ROOT / "notebooks" / "09_explore.ipynb"
ALONE = ROOT / "docs" / "_static" / "explorer" / "index.html"  # the explorer that needs no kernel
PAGES = [
    "index",
    "explorer",
    "tutorial",
    "explanation/stability",
    "explanation/generating-functions",
    "cli",
    "reference/theory",
]

RAW = ("$$", r"\(", r"\[", r"\begin{", r"\tilde", r"\lambda")  # TeX that a reader would see as it is written

LAST_RESORT = 600  # seconds until something is taken never to come

pytest.importorskip("playwright", reason="needs playwright: pip install 'sgdsim[browser]'")
pytest.importorskip("sphinx", reason="needs the site: pip install 'sgdsim[docs]'")
if CHROMIUM is None:
    pytest.skip("needs Chromium of the system, such as apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Address of the built site, served from this machine."""
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", out / "doctrees", ROOT / "docs", out / "html"]
    subprocess.run(build, check=True, capture_output=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(out / "html"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def opened(browser, address, width=1280, height=900):
    """A page with nothing kept from before, and the complaints heard while it is open."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(1000 * LAST_RESORT)
    page, heard = context.new_page(), []
    page.on("console", lambda m: heard.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: heard.append(str(e)))
    page.on("requestfailed", lambda r: heard.append(f"failed: {r.url}"))
    page.on("request", lambda r: None if is_local(r.url) else heard.append(f"not local: {r.url}"))
    page.goto(address)
    yield page, heard
    context.close()


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "file:"))


def shot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name.replace('/', '_')}.png", full_page=True)


def notebooks() -> list[str]:
    return [f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize("name", [*PAGES, *notebooks()])
def test_page(browser, site, name):
    source = next(path for ext in (".md", ".rst", ".ipynb") if (path := ROOT / "docs" / f"{name}{ext}").exists())
    with opened(browser, f"{site}{name}.html") as (page, heard):
        page.wait_for_load_state("networkidle")
        formulas = page.locator(".math").count()
        page.wait_for_function(
            "n => document.querySelectorAll('mjx-container').length >= n && !document.querySelector('mjx-merror')",
            arg=formulas,
        )
        if "$$" in source.read_text(encoding="utf-8"):
            assert formulas > 0
        shown = page.evaluate(
            "[...document.querySelectorAll('mjx-container')].every(e => e.getBoundingClientRect().height > 4)"
        )
        assert shown
        assert [sign for sign in RAW if sign in page.evaluate("document.body.innerText")] == []
        for number in range(page.locator("article img").count()):
            page.locator("article img").nth(number).scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(i => i.complete)")
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        page.evaluate("window.scrollTo(0, 0)")
        shot(page, name)
        for width in (375, 820, 1020, 1280):
            page.set_viewport_size({"width": width, "height": 740})
            assert overflow(page) == 0, width
            if width == 375:
                shot(page, f"{name}_phone")
        assert heard == []


def overflow(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_search_finds_a_name(browser, site):
    with opened(browser, f"{site}search.html?q=max_lr") as (page, heard):
        page.wait_for_selector("#search-results li a")
        assert any("stability" in (a.get_attribute("href") or "") for a in page.locator("#search-results a").all())
        assert heard == []


def test_a_dead_link_and_a_missing_picture_would_be_seen(browser, site):
    """The control: what `heard` and the check of pictures are for."""
    with opened(browser, f"{site}no-such-page.html") as (page, heard):
        page.wait_for_load_state("networkidle")
        assert any("404" in text for text in heard)
    with opened(browser, site) as (page, heard):
        page.evaluate("document.querySelector('article').append(Object.assign(new Image(), {src: 'none.png'}))")
        page.wait_for_function("[...document.images].every(i => i.complete)")
        assert not page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        # Asking the page also lets its messages come.
        assert until(lambda: page.evaluate("true") and any("404" in text for text in heard))


@pytest.fixture(params=["file", "site"])
def alone(request):
    """Address of the explorer that needs no kernel: its file, and where the site has it."""
    if request.param == "file":
        return ALONE.as_uri()
    return f"{request.getfixturevalue('site')}_static/explorer/index.html"


def settled(page) -> str:
    """The path of the loss once the setting in the address is drawn and its best point is known."""
    page.wait_for_function(
        "document.documentElement.dataset.drawn === (location.hash || State.toLink(State.START)) && "
        "!document.querySelector('#best').disabled"
    )
    return page.evaluate("document.querySelector('#curve path[stroke-width=\"3\"]').getAttribute('d')")


def test_explorer_alone(browser, alone, tmp_path):
    """Keyboard, pointer and buttons change the curve; its link brings it back; its file is SVG."""
    with opened(browser, alone) as (page, heard):
        first = settled(page)
        page.locator("#beta").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        moved = settled(page)
        assert moved != first
        assert "momentum=0.1&" in page.evaluate("location.hash")
        assert page.locator("#beta").get_attribute("aria-valuetext") == "0.1"
        assert "before: β = 0" in page.locator("#curve").inner_text()  # the ghost
        handle = page.locator("#handle").bounding_box()
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - 40, y + 60, steps=4)
        page.mouse.up()
        dragged = settled(page)
        assert dragged not in (first, moved)
        shot(page, "explorer_alone")
        address, said = page.url, page.locator("header").inner_text()
        with page.expect_download() as saving:
            page.locator("#file").click()
        saving.value.save_as(tmp_path / "saved.svg")
        drawn = ElementTree.parse(tmp_path / "saved.svg").getroot()
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(drawn.findall(".//{http://www.w3.org/2000/svg}path")) > 10
        page.locator("#unstable").click()
        page.wait_for_selector("#verdict.diverges")
        assert "grows" in page.locator("#details").inner_text()
        assert heard == []
    with opened(browser, address) as (page, heard):
        assert settled(page) == dragged
        assert page.locator("header").inner_text() == said
        assert heard == []


def test_explorer_alone_is_readable(browser):
    """Nothing is wider than the screen, no text is smaller than 12 pixels, every control has a name; also in the dark,
    and where a link has nothing to draw or is damaged."""
    with opened(browser, ALONE.as_uri()) as (page, heard):
        settled(page)
        for width in (320, 390, 700, 820, 1020, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert overflow(page) == 0, width
        small = "e => e.innerText !== '' && parseFloat(getComputedStyle(e).fontSize) < 12"
        assert page.evaluate(f"[...document.querySelectorAll('body *')].filter({small}).map(e => e.outerHTML)") == []
        assert page.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length && e.ariaValueText)")
        light = page.evaluate("document.querySelector('#curve rect').getAttribute('fill')")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "light => document.querySelector('#curve rect').getAttribute('fill') !== light", arg=light
        )
        page.set_viewport_size({"width": 390, "height": 844})
        shot(page, "explorer_alone_dark_phone")
        page.evaluate("location.hash = '#nu=0.9&n=inf'")
        page.wait_for_selector("#notice:not([hidden])")
        assert "diverges at every learning rate" in page.locator("#notice").inner_text()
        assert page.locator("#curve svg").count() == 0
        page.evaluate("location.hash = '#lr=0.1&momentum=many'")
        page.wait_for_selector("#curve svg")
        assert "momentum=many" in page.locator("#notice").inner_text()
        assert heard == []


def test_the_site_leads_to_the_explorer(browser, site):
    for name in ("index", "explorer"):
        with opened(browser, f"{site}{name}.html") as (page, heard):
            page.locator("article a[href='_static/explorer/index.html']").first.click()
            page.wait_for_selector("#curve svg")
            page.locator("#home").click()
            page.wait_for_url("**/explorer.html")
            assert heard == []


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """Address of a JupyterLab on this machine whose folder holds a copy of the explorer."""
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install 'sgdsim[notebooks]'")
    pytest.importorskip("ipywidgets", reason="needs ipywidgets: pip install 'sgdsim[notebooks]'")
    if not EXPLORER.exists():
        pytest.skip("the explorer notebook is not in this copy")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(EXPLORER, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("home")  # no one's settings
    env = {**os.environ, "JUPYTER_CONFIG_DIR": f"{home}/config", "JUPYTER_DATA_DIR": f"{home}/data"}
    env |= {"JUPYTER_RUNTIME_DIR": f"{home}/runtime", "IPYTHONDIR": f"{home}/ipython"}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
        "--ServerApp.port_retries=0",
    ]  # fmt: skip
    log = folder.parent / "jupyter.log"
    with log.open("w") as out, subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            assert until(lambda: server.poll() is not None or answers(f"{address}/api/status"))
            assert server.poll() is None, log.read_text()
            yield address
        finally:
            server.terminate()
            try:
                server.wait(LAST_RESORT)
            except subprocess.TimeoutExpired:
                server.kill()


def test_sliders_of_the_explorer(browser, jupyter):
    """All cells run in JupyterLab; a slider moved by keyboard changes the picture, and back again restores it."""
    with opened(browser, f"{jupyter}/lab/tree/{EXPLORER.name}", 1400, 1000) as (page, _):
        page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook-cell')")
        kernel = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
        page.wait_for_function(f"{kernel}?.status === 'idle'")
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        handle = page.locator(".widget-slider [role=slider]").first
        handle.wait_for()
        picture = page.locator(".jp-OutputArea img.widget-image").first
        picture.wait_for()
        # The outputs of all cells are there, and none is an error.
        page.wait_for_function("document.querySelectorAll('.jp-OutputArea-output img').length >= 5")
        page.wait_for_function(f"{kernel}?.status === 'idle'")
        assert page.locator("[data-mime-type$=stderr], [data-mime-type$=error]").count() == 0
        before = seen(picture)
        assert before["width"] > 300
        readout = page.locator(".widget-readout").first
        value = readout.inner_text()
        handle.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert until(lambda: seen(picture) not in (before, None))
        assert readout.inner_text() != value
        page.wait_for_function(f"{kernel}?.status === 'idle'")
        shot(page, "explorer")
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        assert until(lambda: seen(picture) == before)
        assert readout.inner_text() == value


_BYTES = """async img => {
    if (!img.complete || !img.src) return null;
    const body = await (await fetch(img.src)).arrayBuffer();
    const hash = await crypto.subtle.digest('SHA-256', body);
    return {bytes: [...new Uint8Array(hash)].join(), width: img.naturalWidth};
}"""


def seen(picture):
    """Fingerprint and width of the picture as it is loaded now, or None while it is not."""
    return picture.evaluate(_BYTES)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address):
        return True
    return False


def until(holds) -> bool:
    """Whether `holds()` becomes true in time."""
    end = time.monotonic() + LAST_RESORT
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False
