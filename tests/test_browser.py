"""The pages in headless Chromium: texts are those of the command line, nothing leaves the page, everybody can use it.

These tests need selenium (`pip install -e '.[browser]'`), Chromium and its driver, and are skipped without. `make
browser` runs them with axe-core, which looks for what shuts people out; CHARLM_AXE may name a copy of axe.min.js.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from oracles import random_network, synthetic_text

from charlm.cli.main import run
from charlm.config import Config, DataConfig, ModelConfig
from charlm.evaluation.surprisal import surprisal
from charlm.generation.decoder import NumpyDecoder
from charlm.generation.sampling import distribution
from charlm.inspection.cells import Activity, Unit
from charlm.inspection.subject import open_network, reading
from charlm.models.network import Network, export_weights
from charlm.report.cells import levels
from charlm.runtime.random import Purpose, uniform
from charlm.storage.checkpoint import Checkpoint, save_checkpoint
from charlm.storage.records import Metrics, TrainingSample
from charlm.storage.runs import Run
from charlm.text.tokenizer import Tokenizer, train_tokenizer

selenium = pytest.importorskip("selenium")
from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSER: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER: Final = shutil.which("chromedriver")
AXE: Final = Path(os.environ.get("CHARLM_AXE", Path(sys.prefix) / "node_modules/axe-core/axe.min.js"))
LEARNED: Final = synthetic_text(3000, seed=81)
LENGTH: Final = 1000
PATIENCE: Final = 60.0  # seconds; others may use the machine as well

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with its driver")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


class Tab:
    """A page that is open in the browser."""

    def __init__(self, driver: Chrome, path: Path) -> None:
        self.driver = driver
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        driver.get(path.resolve().as_uri())

    def script(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def value(self, expression: str) -> Any:
        return self.script(f"return {expression}")

    def wait(self, expression: str) -> Any:
        """What the expression is as soon as it is something."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := self.value(expression):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{expression} is still nothing; {self.driver.get_log('browser')}")

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def fill(self, **values: object) -> None:
        for name, value in values.items():
            self.script("document.querySelector(`[name=${arguments[0]}]`).value = arguments[1]", name, str(value))

    def idle(self) -> None:
        """Wait until nothing is being written."""
        self.wait("document.body.dataset.ready && document.getElementById('stop').disabled")

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def write(self, beginning: str = "", **values: object) -> str:
        """Have a text written, and return it without its beginning."""
        self.idle()
        self.script("document.getElementById('beginning').value = arguments[0]", beginning)
        self.fill(**values)
        self.click("#options .main")
        return self.written(beginning)

    def written(self, beginning: str = "") -> str:
        self.wait("/seed/.test(document.getElementById('said').textContent)")
        text: str = self.value("document.getElementById('written').textContent")
        assert text.startswith(beginning)
        return text[len(beginning) :]

    def read(self, text: str) -> None:
        """Have the surprisal of a text shown."""
        self.wait("document.body.dataset.ready")
        self.script("document.getElementById('pasted').value = arguments[0]", text)
        self.click("#reading .main")
        self.wait("/ read$/.test(document.getElementById('read-said').textContent)")

    def show_cells(self, text: str) -> None:
        """Have a text coloured by a cell."""
        self.wait("document.body.dataset.ready")
        self.script("document.getElementById('cell-text').value = arguments[0]", text)
        self.click("#cell-reading .main")
        self.wait(f"document.getElementById('cells-said').textContent === '{len(text):,} characters read'")

    def complaints(self) -> list[str]:
        """What the browser says of errors, and where requests went other than to the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                said += [] if url == self.driver.current_url.split("#")[0] else [url]
        return said


class Made:
    """A model of random weights and its page."""

    def __init__(self, folder: Path, name: str, config: ModelConfig, data: DataConfig | None = None) -> None:
        data = data or DataConfig()
        self.tokenizer: Tokenizer = train_tokenizer(data, LEARNED)
        self.network: Network = random_network(config, self.tokenizer.size, seed=4, scale=0.3)
        self.checkpoint, self.page = folder / f"{name}.safetensors", folder / f"{name}.html"
        weights = export_weights(self.network)
        self.decoder = NumpyDecoder(config, weights)
        save_checkpoint(
            self.checkpoint,
            Checkpoint(config=Config(model=config, data=data), tokenizer=self.tokenizer.state(), weights=weights),
        )
        assert run(["page", str(self.checkpoint), "-o", str(self.page), "-q"]) == 0

    def logits(self, text: str) -> Any:
        """After the start input and a text."""
        ids = np.concatenate([[self.tokenizer.start], self.tokenizer.encode(text).ids])
        return self.decoder.after(ids[:, None], self.decoder.init_state(1))[0][0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    folder = tmp_path_factory.mktemp("pages")
    models = {
        name: Made(folder, name, ModelConfig(cell=name, hidden=24, layers=2, embedding=8))
        for name in ("lstm", "gru", "rnn")
    }
    models["lines"] = Made(folder, "lines", ModelConfig(hidden=24, embedding=8, layers=1), DataConfig(records="line"))
    models["bytes"] = Made(folder, "bytes", ModelConfig(hidden=24, layers=1, embedding=8), DataConfig(tokenizer="byte"))
    return models


def sampled(model: Made, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `charlm sample` prints."""
    capsys.readouterr()
    assert run(["sample", str(model.checkpoint), "--raw", "-q", *options]) == 0
    return capsys.readouterr().out


def assert_same(model: Made, prime: str, seed: int, ours: str, theirs: str, **settings: float) -> None:
    """Two texts are equal, or part where a number falls within 1e-5 of a boundary."""
    assert len(ours) == len(theirs) == LENGTH
    at = next((at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), LENGTH)
    if at < LENGTH:
        p = distribution(model.logits(prime + theirs[:at]), **settings)  # type: ignore[arg-type]
        assert np.abs(np.cumsum(p) - uniform(seed, Purpose.SAMPLE, at)).min() < 1e-5, f"they part at {at}"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_page_writes_what_charlm_sample_writes(
    chromium: Chrome, made: dict[str, Made], capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    model, prime = made[cell], "The “a§"
    tab = Tab(chromium, model.page)
    given = ["--length", str(LENGTH), "--seed", "123456789012345678", "--prime", prime, "--no-echo"]
    text = tab.write(prime, seed=123456789012345678, length=LENGTH, temperature=1)
    assert_same(model, prime, 123456789012345678, text, sampled(model, capsys, *given))
    given += ["--temperature", "0.7", "--top-k", "12", "--top-p", "0.9", "--min-p", "0.01"]
    tab.fill(temperature=0.7, top_k=12, top_p=0.9, min_p=0.01)
    settings = {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.01}
    tab.click("#options .main")
    text = tab.written(prime)
    assert_same(model, prime, 123456789012345678, text, sampled(model, capsys, *given), **settings)
    assert tab.complaints() == []


def test_a_text_that_is_stopped_goes_on_where_it_was(
    chromium: Chrome, made: dict[str, Made], capsys: pytest.CaptureFixture[str]
) -> None:
    model = made["gru"]
    tab = Tab(chromium, model.page)
    first = tab.write("T", seed=5, length=300)
    assert len(first) == 300
    box = "document.getElementById('written')"
    assert tab.value(f"{box}.scrollTop + {box}.clientHeight >= {box}.scrollHeight - 40")
    tab.fill(length=LENGTH - 300)
    tab.click("#more")
    assert_same(
        model,
        "T",
        5,
        tab.written("T"),
        sampled(model, capsys, "--prime", "T", "--no-echo", "--seed", "5", "--length", "1000"),
    )
    tab.fill(length=10_000_000)
    tab.click("#options .main")
    tab.wait("document.getElementById('written').textContent.length > 100")
    tab.click("#stop")  # which is answered while it writes
    assert "stopped after" in tab.find("#said").text
    before = tab.written()
    time.sleep(0.1)
    assert tab.written() == before
    tab.fill(length=50)
    tab.click("#more")
    assert len(tab.written()) == len(before) + 50


def test_bars_are_the_distribution_and_can_be_chosen(chromium: Chrome, made: dict[str, Made]) -> None:
    model = made["lstm"]
    tab = Tab(chromium, model.page)
    tab.idle()
    tab.find("#beginning").send_keys("Tes")
    tab.idle()
    text = "Tes"
    for temperature in (1.0, 0.5):
        tab.fill(temperature=temperature)
        tab.script("document.querySelector('[name=temperature]').dispatchEvent(new Event('input'))")
        p = distribution(model.logits(text), temperature=temperature)
        order = np.argsort(-p, kind="stable")
        tab.wait(f"document.querySelector('#next .share').textContent === '{100 * p[order[0]]:.1f} %'")
        bars = tab.all("#next button")
        assert len(bars) == 12
        second = model.tokenizer.pieces[int(order[1])].decode()
        assert bars[1].find_element(By.CSS_SELECTOR, "bdi").text == {" ": "␣", "\n": "↵"}.get(second, second)
        bars[1].click()
        text += second
        assert tab.value("document.getElementById('written').textContent") == text
        assert tab.value("document.activeElement.tagName") == "BUTTON"  # the focus stays, for who uses the keyboard
    assert tab.complaints() == []


def test_bytes_are_written_as_characters(
    chromium: Chrome, made: dict[str, Made], capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes of a random network spell little: what is no UTF-8 is shown as in the command line."""
    model = made["bytes"]
    tab = Tab(chromium, model.page)
    text = tab.write("aé", seed=3, length=100)
    expected = sampled(model, capsys, "--prime", "aé", "--no-echo", "--seed", "3", "--length", "100")
    from charlm.report.words import visible

    assert text == visible(expected)


def test_records_follow_each_other(chromium: Chrome, made: dict[str, Made], capsys: pytest.CaptureFixture[str]) -> None:
    model = made["lines"]
    tab = Tab(chromium, model.page)
    first, second, third = sampled(model, capsys, "--seed", "11", "--count", "3").splitlines()
    assert tab.write(seed=11) == first
    assert "to the end of the record" in tab.find("#said").text
    for text in (f"{first}\n{second}", f"{first}\n{second}\n{third}"):
        tab.click("#more")
        tab.idle()
        assert tab.written() == text


def test_options_that_are_wrong_are_named(chromium: Chrome, made: dict[str, Made]) -> None:
    tab = Tab(chromium, made["lstm"].page)
    tab.idle()
    tab.find("[name=top_p]").clear()
    tab.find("[name=top_p]").send_keys("1.5")
    assert tab.find("#wrong").text == "top-p must be from above 0 to 1"
    assert tab.find("[name=top_p]").get_attribute("aria-invalid") == "true"
    tab.fill(top_p=1, seed="x")
    tab.script("document.querySelector('[name=seed]').dispatchEvent(new Event('input'))")
    assert "seed must be a whole number" in tab.find("#wrong").text


def test_the_heat_map_is_the_score(chromium: Chrome, made: dict[str, Made]) -> None:
    model = made["lstm"]
    text = LEARNED[:400] + "☃ lone\tword שלום\n漢字 <b>&amp;\n日本の本。\n"
    tab = Tab(chromium, model.page)
    tab.read(text)
    judged = surprisal(model.network, model.tokenizer, text)
    spans = tab.value("[...document.querySelectorAll('#read .line span')].map(one => [one.textContent, one.className])")
    assert len(spans) == len(text)
    bits = judged.unit_nats / math.log(2)
    levels = np.searchsorted([0.5, 1, 2, 4, 8], bits, side="right")
    clear = np.abs(bits[:, None] - np.array([0.5, 1, 2, 4, 8])).min(axis=1) > 1e-3
    assert [int(name.split()[0][1:]) for _, name in spans] == levels.tolist() or clear.mean() < 1
    assert "".join(sign for sign, _ in spans) == text.replace("\n", "↵").replace("\t", "␉")
    total = tab.value("document.querySelector('#read table tr:nth-child(4) td').textContent")
    assert float(total) == pytest.approx(judged.total.bits_per_character, abs=2e-4)
    words = tab.all("#read .words button")
    assert [word.text for word in words] == [word.text for word in judged.worst_words(len(words))]
    words[0].click()
    worst = judged.worst_words(1)[0].text
    assert tab.value("[...document.querySelectorAll('.found')].map(one => one.textContent).join('')") == worst
    assert tab.value("document.activeElement.className").split()[0].startswith("c")
    assert "bits" in tab.find("#tip").text
    before = tab.value("document.activeElement.unit")
    tab.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert tab.value("document.activeElement.unit") == before + 1
    tab.find("#read [type=search]").send_keys("lone", Keys.ENTER)
    assert tab.value("document.activeElement.unit") == text.index("lone")
    assert tab.find("#read .controls .said").text == "1 of 1"
    colour = "getComputedStyle(document.querySelector('#read .line .c3')).backgroundColor"
    coloured = tab.value(colour)
    tab.script(
        "const one = document.querySelector('#read select'); one.value = '4'; one.dispatchEvent(new Event('change'))"
    )
    assert tab.value(colour) != coloured
    tab.click("#read .controls [aria-label^='next character']")
    assert levels[tab.value("document.activeElement.unit")] >= 4
    assert tab.complaints() == []


def values_said(tab: Tab) -> float:
    """The value that is read out."""
    said: str = tab.value("document.querySelector('#cells-read .controls .said').textContent")
    return float(said.rpartition(": ")[2].replace("\u2212", "-").replace("+", ""))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_text_is_coloured_by_what_a_cell_does(chromium: Chrome, made: dict[str, Made], cell: str) -> None:
    model, text = made[cell], LEARNED[:300] + "☃\tא <b>\n"
    tab = Tab(chromium, model.page)
    tab.show_cells(text)
    opened = open_network(model.network.config, export_weights(model.network))
    states = Activity(opened, reading(text * 2, model.tokenizer))
    for layer, unit in ((1, 1), (2, 17)):
        for label, number in (("Layer", layer), ("Unit", unit)):
            field = next(one for one in tab.all("#cells-read label") if one.text.startswith(label))
            field.find_element(By.CSS_SELECTOR, "input").send_keys(Keys.CONTROL, "a")
            field.find_element(By.CSS_SELECTOR, "input").send_keys(str(number))
        expected = states.of([Unit(layer, unit)])[: len(text), 0]
        spans = tab.value(
            "[...document.querySelectorAll('#cells-read .line span')].map(one => [one.textContent, one.className])"
        )
        assert "".join(sign for sign, _ in spans) == text.replace("\n", "↵").replace("\t", "␉")
        shown = np.array([int(name[1]) for _, name in spans])
        scale = np.percentile(np.abs(expected), 99)
        clear = np.abs((3 * expected / scale) % 1 - 0.5) > 1e-3
        np.testing.assert_array_equal(shown[clear], levels(expected)[clear])
        assert f"unit {layer}:{unit}" in tab.find("#cells-read .legend").text
        tab.script("document.querySelector('#cells-read .line span').focus()")
        for at in (0, 1, 2):  # the number is read out, and above 0 is told from below 0 without a colour
            assert values_said(tab) == pytest.approx(float(expected[at]), abs=6e-4)
            line = tab.value("getComputedStyle(document.activeElement).textDecorationLine")
            level = shown[at] - 3
            assert line == ("overline" if level > 0 else "underline" if level < 0 else "none")
            tab.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    status = "document.querySelector('#cells-read .said').getAttribute('role')"
    assert tab.value(status) == "status"
    tab.click("#cells-read [aria-label^='next character where']")
    assert tab.value("document.activeElement.className[1]") in "06"
    assert tab.complaints() == []


def test_cells_that_were_found_stand_first_and_lead_to_the_text(
    chromium: Chrome, made: dict[str, Made], tmp_path: Path
) -> None:
    tab = Tab(chromium, whole_page(made["gru"], tmp_path))
    tab.wait("document.getElementById('cells-said').textContent === '3,000 characters read'")
    found = tab.value("JSON.parse(document.getElementById('data').textContent).cells.found")
    options = tab.value("[...document.querySelectorAll('#cells-read option')].map(one => one.textContent)")
    assert options == [*(f"{layer}:{unit} {about}" for layer, unit, about in found), "another"]
    buttons = tab.all(".found-cells button")
    assert {one.text for one in buttons} == {f"{layer}:{unit}" for layer, unit, _ in found}
    last = buttons[-1].text
    buttons[-1].click()
    assert f"unit {last}:" in tab.find("#cells-read .legend").text
    assert tab.value("document.activeElement.unit") == 0
    tab.write("ab", seed=1, length=40)
    tab.click("#use-written")
    tab.wait("document.getElementById('cells-said').textContent === '42 characters read'")
    assert tab.complaints() == []


def test_texts_from_right_to_left_are_shown_so(chromium: Chrome, made: dict[str, Made]) -> None:
    """The first letter of a line of Hebrew stands at its right end; that of a line of Latin at the left."""
    tab = Tab(chromium, made["lstm"].page)
    tab.read("שלום abc\nabc שלום\n漢字仮名\n")
    left = [
        tab.value(f"document.querySelectorAll('#read .line')[{line}].children[{at}].getBoundingClientRect().left")
        for line, at in ((0, 0), (0, 3), (1, 0), (1, 2), (1, 4), (1, 7), (2, 0), (2, 3))
    ]
    assert left[0] > left[1]
    assert left[2] < left[3]
    assert left[4] > left[5]
    assert left[6] < left[7]
    box = tab.value("document.querySelector('#read .line').getBoundingClientRect().right")
    assert box - left[0] < 40  # at the right edge
    assert tab.value("getComputedStyle(document.getElementById('beginning')).unicodeBidi") == "plaintext"


def test_a_text_of_the_command_line_is_shown_at_once(chromium: Chrome, made: dict[str, Made], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\r\ntwo ☃\n".encode())
    model = made["gru"]
    assert (
        run(["page", str(model.checkpoint), "-o", str(tmp_path / "a.html"), "--text", str(tmp_path / "a.txt"), "-q"])
        == 0
    )
    tab = Tab(chromium, tmp_path / "a.html")
    assert tab.wait("document.querySelectorAll('#read .line').length") == 2
    assert tab.value("document.querySelector('#read .line').textContent") == "one␍↵"


def test_nothing_can_leave_the_page(chromium: Chrome, made: dict[str, Made]) -> None:
    tab = Tab(chromium, made["lstm"].page)
    tab.wait("document.body.dataset.ready")
    tried = chromium.execute_async_script(
        """const done = arguments[0], found = [];
        addEventListener('securitypolicyviolation', event => found.push(event.effectiveDirective));
        const picture = new Image(), script = document.createElement('script'), style = document.createElement('style');
        picture.src = 'http://127.0.0.1:9/';
        script.textContent = 'window.reached = true';
        style.textContent = 'body { display: none }';
        document.body.append(picture, script, style);
        const end = () => setTimeout(() => done([found, !!window.reached]), 50);
        fetch('http://127.0.0.1:9/').then(end, end);"""
    )
    directives, reached = tried
    assert {"connect-src", "img-src", "script-src-elem", "style-src-elem"} <= set(directives)
    assert not reached


@contextmanager
def screen(driver: Chrome, width: int, scheme: str) -> Iterator[None]:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def whole_page(model: Made, folder: Path) -> Path:
    """A page that has all parts: of a run with metrics and samples, and with cells, gradients and memory."""
    kept, page = Run(folder / "whole"), folder / "whole.html"
    kept.folder.mkdir()
    shutil.copy(model.checkpoint, kept.best)
    for step in (1, 50, 100):
        losses = {"train_loss": 5.0 - step / 50, "val_loss": 4.9 - step / 60, "grad_norm": 1.0, "lr": 0.01}
        kept.append_metrics(Metrics(step=step, characters_seen=step, seconds=step, characters_per_second=9, **losses))
        kept.append_sample(TrainingSample(step=step, seconds=step, text="once\tupon \u202e\x1b a <b>time</b>\n" * 9))
    (folder / "learned.txt").write_text(LEARNED, encoding="utf-8")
    assert run(["page", str(kept.folder), "-o", str(page), "--text", str(folder / "learned.txt"), "-q"]) == 0
    return page


def both(chromium: Chrome, model: Made, folder: Path) -> Iterator[Tab]:
    """The page of a run with a text written and two read, and those of `charlm inspect cells` and `charlm score`."""
    tab = Tab(chromium, whole_page(model, folder))
    tab.write("Te", seed=1, length=200)
    tab.read(LEARNED[:500])
    tab.show_cells(LEARNED[:500])
    yield tab
    page = folder / "cells.html"
    words = ["--text", str(folder / "learned.txt"), "--unit", "1:2", "-o", str(page), "-q"]
    assert run(["inspect", "cells", str(model.checkpoint), *words]) == 0
    tab = Tab(chromium, page)
    tab.wait("document.querySelector('.controls')")
    yield tab
    (folder / "text.txt").write_text(LEARNED[:500] + "\x1b\t☃\n", encoding="utf-8")
    page = folder / "score.html"
    assert run(["score", str(model.checkpoint), "--text", str(folder / "text.txt"), "--html", str(page), "-q"]) == 0
    tab = Tab(chromium, page)
    tab.wait("document.querySelector('.controls')")
    yield tab


def test_narrow_screens_show_everything_and_break_no_word(
    chromium: Chrome, made: dict[str, Made], tmp_path: Path
) -> None:
    with screen(chromium, 360, "light"):
        for tab in both(chromium, made["lstm"], tmp_path):
            assert tab.value("document.documentElement.scrollWidth") <= 360
            broken = tab.value(
                """[...document.querySelectorAll('p, label, button, th, td, h1, h2, h3')].flatMap(part => {
                  const walker = document.createTreeWalker(part, 4), found = [];
                  for (let node; node = walker.nextNode();) for (const word of node.data.matchAll(/\\S+/g)) {
                    const range = document.createRange();
                    range.setStart(node, word.index);
                    range.setEnd(node, word.index + word[0].length);
                    const tops = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
                    if (tops.size > 1 && word[0].length < 30 && !word[0].includes('-')) found.push(word[0]);
                  }
                  return found;
                })"""
            )
            assert broken == []
            assert tab.complaints() == []


@pytest.mark.skipif(not AXE.is_file(), reason="there is no axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_shut_nobody_out(chromium: Chrome, made: dict[str, Made], tmp_path: Path, scheme: str) -> None:
    with screen(chromium, 1200, scheme):
        for _ in both(chromium, made["lstm"], tmp_path):
            chromium.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
            answer = chromium.execute_cdp_cmd(
                "Runtime.evaluate",
                {
                    "expression": "axe.run().then(found => JSON.stringify(found.violations.map(one => [one.id, "
                    "one.nodes.map(node => node.html)])))",
                    "awaitPromise": True,
                },
            )
            assert json.loads(answer["result"]["value"]) == []


def test_the_page_of_a_score_has_the_same_controls(chromium: Chrome, made: dict[str, Made], tmp_path: Path) -> None:
    *_, tab = both(chromium, made["lstm"], tmp_path)
    text = LEARNED[:500] + "\x1b\t☃\n"
    tab.find("[type=search]").send_keys("\t☃", Keys.ENTER)
    assert tab.value("[...document.querySelectorAll('.found')].map(one => one.unit)") in ([], [501, 502])
    tab.script("document.querySelector('[type=search]').value = '☃'")
    tab.click(".controls [aria-label='next occurrence']")
    assert tab.value("document.activeElement.unit") == text.index("☃")
    words = tab.all(".words button")
    assert len(words) == 10
    words[0].click()
    assert tab.value("[...document.querySelectorAll('.found')].map(one => one.textContent).join('')") == words[0].text
    assert tab.complaints() == []
