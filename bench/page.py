"""`python -m bench.page`: the page of a model in headless Chromium: its size, when it can be used, how fast it writes.

Models have random weights, since those do not change a speed. Rates are by the clock and by the processor time of the
page's thread, which other load on the machine does not change much. Needs what `make browser` installs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from bench.machine import machine
from charlm.config import Config, ModelConfig
from charlm.models.network import Network, export_weights, initialise
from charlm.report.page.model_page import Source, model_page
from charlm.storage.checkpoint import Checkpoint
from charlm.text.tokenizer import CharTokenizer

LENGTH: Final = 4000
REPEATS: Final = 2
MODELS: Final = (
    ("lstm", 256, "fp32"),
    ("gru", 256, "fp32"),
    ("rnn", 256, "fp32"),
    ("lstm", 256, "int8"),
    ("lstm", 620, "fp32"),
)
VOCABULARY: Final = "".join(map(chr, range(32, 97)))


def main() -> None:
    print(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as folder:
        for cell, hidden, precision in MODELS:
            path = Path(folder, f"{cell}-{hidden}-{precision}.html")
            path.write_text(_page(ModelConfig(cell=cell, hidden=hidden), precision), encoding="utf-8")
            ready, found = zip(*(_measured(path) for _ in range(REPEATS)), strict=True)
            clock, thread = (max(rates) for rates in zip(*found, strict=True))
            print(
                f"2 x {hidden} {cell}, {precision}: {path.stat().st_size:,} bytes, usable after {min(ready)} ms; "
                f"{clock:,.0f} characters a second, {thread:,.0f} in a second of processor time"
            )


def _page(model: ModelConfig, precision: str) -> str:
    tokenizer = CharTokenizer(VOCABULARY, 1, 10_000)
    network = Network(model, tokenizer.size)
    initialise(network, seed=1)
    checkpoint = Checkpoint(config=Config(model=model), tokenizer=tokenizer.state(), weights=export_weights(network))
    return model_page(Source(name="random", path=Path("random"), checkpoint=checkpoint, precision=precision)).content


def _measured(path: Path) -> tuple[int, tuple[float, float]]:
    """Milliseconds until the page can be used; characters in a second by the clock, and by the thread's own time."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.get(path.as_uri())
        ready = int(_waited(driver, "document.body.dataset.ready"))
        _waited(driver, "document.getElementById('stop').disabled")
        driver.execute_script(f"document.querySelector('[name=length]').value = {LENGTH}")
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before, begun = _thread(driver), time.perf_counter()
        driver.execute_script("document.querySelector('#options .main').click()")
        _waited(driver, "/ a second/.test(document.getElementById('said').textContent)")
        seconds, thread = time.perf_counter() - begun, _thread(driver) - before
        return ready, (LENGTH / seconds, LENGTH / thread)
    finally:
        driver.quit()


def _waited(driver: Chrome, expression: str) -> Any:
    while not (found := driver.execute_script(f"return {expression}")):
        time.sleep(0.2)  # asking is work for the page, too
    return found


def _thread(driver: Chrome) -> float:
    """Seconds of work of the page's thread so far."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


if __name__ == "__main__":
    main()
