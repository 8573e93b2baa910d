"""The page holds a text exactly and lets none command it; its figures are those of the score."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import random_network, synthetic_text

from charlm.config import DataConfig, ModelConfig
from charlm.evaluation.surprisal import position_losses, surprisal
from charlm.models.network import Network
from charlm.report.levels import DARK, DIVERGING_DARK, DIVERGING_LIGHT, LIGHT, TERMINAL
from charlm.report.page.page import page
from charlm.report.surprisal import Scored
from charlm.text.tokenizer import Tokenizer, train_tokenizer

LEARNED = synthetic_text(2000, seed=31)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>\n]]></style></textarea></title><img src=x onerror=alert(1)>",
    "\"'`><a href=javascript:alert(1)>&lt;&amp;&#0;&nbsp;",
    "\x00\x01\x1b[31m\x7f\x80\x9b\u2028\u2029\ufeff\ufffe\r\n\r\t\v\f",
    "\u202e\u2066bidi\u2069\u200f \u200bשלום",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \U0001f1e9\U0001f1ea \ue000",
    "\n\n  leading\n   \n",
    "",
]
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "p", "div", "span"),
    *("table", "caption", "tr", "th", "td", "bdi", "b", "small", "script"),
}
Pair = tuple[Network, Tokenizer]
Columns = list[NDArray[np.int64]]


class Reader(HTMLParser):
    """What a page says: its lines' text with signs turned back, its tags, scripts and attributes."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.headings: list[str] = []
        self._open: list[tuple[str, str]] = []
        self._sign = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        known = {name: value or "" for name, value in attrs}
        if tag == "b":
            self._sign = chr(int(known["data-c"], 16))
        if known.get("class") == "text":
            self.texts.append("")
        if tag not in ("meta",):
            self._open.append((tag, known.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        if ("div", "line") in self._open:
            self.texts[-1] += self._sign if self._open[-1][0] == "b" else data
        elif self._open[-1][0] == "script":
            self.scripts.append(data)
        elif self._open[-1][0] == "h1":
            self.headings.append(data)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    config = ModelConfig(hidden=8, layers=1, embedding=4)
    tokenizers = [
        train_tokenizer(DataConfig(tokenizer=kind, vocab_size=320), LEARNED)
        for kind in ("char", "byte", "sentencepiece")
    ]
    return {t.kind: (random_network(config, t.size, seed=8), t) for t in tokenizers}


def made(pair: Pair, *texts: str, name: str = "a.txt", likeliest: int = 10) -> str:
    scored = [Scored(name, surprisal(*pair, text, likeliest=likeliest), position_losses(*pair, text)) for text in texts]
    return page("run/best.safetensors", scored, pair[1])


def data(content: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Reader(content).scripts[0])
    return loaded


def columns(text: dict[str, Any]) -> Columns:
    """The figures, unpacked another way than the page's script does it."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text["packed"])), dtype=np.uint8).astype(np.int64)
    found, at, units = [], 0, text["units"]
    for width in text["widths"]:
        planes = raw[at : at + width * units].reshape(width, units)
        found.append((planes << (8 * np.arange(width)[:, None])).sum(axis=0))
        at += width * units
    assert at == len(raw)
    return found


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_the_text_in_the_page_is_the_text(pairs: dict[str, Pair], kind: str) -> None:
    assert Reader(made(pairs[kind], LEARNED, *HOSTILE)).texts == [LEARNED, *HOSTILE]


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), kind=st.sampled_from(["char", "byte"]))
def test_any_text_comes_back_from_the_page(pairs: dict[str, Pair], text: str, kind: str) -> None:
    assert Reader(made(pairs[kind], text)).texts == [text]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_and_no_name_changes_what_the_page_is(pairs: dict[str, Pair], text: str) -> None:
    """Whatever they hold, there are the elements that a harmless page has, and no character that commands."""
    name = text + "x"
    content = made(pairs["char"], text, name=name)
    reader = Reader(content)
    assert set(reader.tags) <= TAGS
    assert reader.tags.count("script") == 2
    assert content.count("<script") == content.count("</script") == 2
    assert not any(key.startswith("on") or key in ("src", "href", "style") for key, _ in reader.attributes)
    assert all(character.isprintable() or character == "\n" for character in content if character not in "\u200d\ue000")
    json_part, script = reader.scripts
    assert json_part.isascii()
    assert not set(json_part) & set("<>&")
    assert reader.scripts[1] == Reader(made(pairs["char"], "harmless")).scripts[1] == script


def test_the_page_needs_nothing_and_admits_its_own_script_alone(pairs: dict[str, Pair]) -> None:
    content = made(pairs["char"], LEARNED[:300])
    reader = Reader(content)
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    policy = next(value for key, value in reader.attributes if key == "content" and value and "default-src" in value)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(
        r"https?://|//\w|url\(|@import|eval\(|innerHTML|insertAdjacent|document\.write", reader.scripts[1]
    )
    assert not re.search(r"https?:|url\(|@import", content)


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_the_figures_in_the_page_are_those_of_the_score(pairs: dict[str, Pair], kind: str) -> None:
    text = LEARNED[:300] + "☃ “ß”\n"
    network, tokenizer = pairs[kind]
    judged = surprisal(network, tokenizer, text, likeliest=10)
    content = page("m", [Scored("a", judged)], tokenizer)
    known = data(content)
    bits, lengths, tokens, own, *others = columns(known["texts"][0])
    assert len(others) == 20
    np.testing.assert_allclose(bits / 500, np.minimum(judged.unit_nats / math.log(2), 65535 / 500), atol=0.001)
    assert lengths.tolist() == [len(unit) for unit in judged.units()]
    assert tokens.sum() == len(judged.ids)
    assert judged.likeliest is not None
    first = judged.first_tokens
    np.testing.assert_array_equal(own, judged.ids[first])
    np.testing.assert_array_equal(np.stack(others[:10], 1), judged.likeliest.ids[first])
    probabilities = (np.stack(others[10:], 1) / 4095) ** 2
    np.testing.assert_allclose(probabilities, judged.likeliest.probabilities[first], rtol=0.02, atol=3e-5)
    wanted = {str(token) for token in np.unique(judged.likeliest.ids[first])} | {str(token) for token in own}
    assert known["names"].keys() == wanted
    if kind == "char":
        assert {known["names"][str(token)] for token in own} == {
            "unknown" if c == "☃" else {" ": "␣", "\n": "↵"}.get(c, c) for c in text
        }
    units = [int(value) for key, value in Reader(content).attributes if key == "data-unit" and value is not None]
    starts = [line.start for line in judged.lines()]
    assert [int(judged.starts[unit]) for unit in units] == starts
    margins = [value for key, value in Reader(content).attributes if key == "data-margin" and value is not None]
    assert [float(value.split()[1].replace(",", "")) for value in margins] == [
        round(line.bits, 1) for line in judged.lines()
    ]


def test_what_is_not_finite_and_a_page_without_alternatives(pairs: dict[str, Pair]) -> None:
    network, tokenizer = random_network(ModelConfig(hidden=4, layers=1, embedding=2), 256, seed=1), pairs["byte"][1]
    for weight in network.parameters():
        weight.data.fill_(math.nan)
    content = page("m", [Scored("a", surprisal(network, tokenizer, "ab\n", likeliest=10))], tokenizer)
    assert columns(data(content)["texts"][0])[0].tolist() == [65535] * 3
    assert "nan" not in content.split("<style>")[0] + content.split("</header>")[1].split("<script")[0]
    plain = data(made(pairs["char"], "abc", likeliest=0))["texts"][0]
    assert len(columns(plain)) == 4


def test_a_long_text_is_shown_in_part_and_its_page_is_small(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = synthetic_text(20_000, seed=32)
    content = made(pairs["char"], text)
    assert Reader(content).texts == [text]
    assert len(content.encode()) < 40 * len(text)
    monkeypatch.setattr("charlm.report.page.page.LIMIT", 5000)
    cut = made(pairs["char"], text, text)
    assert Reader(cut).texts == [text[:5000], ""]
    assert "The last 15,000 characters are not shown" in cut
    assert "The last 20,000 characters are not shown" in cut
    assert cut.count("<td>20,000</td>") == 2


def linear(colour: str) -> float:
    """Relative luminance, as the contrast of WCAG has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("palette", [LIGHT, DARK, TERMINAL])
def test_levels_are_in_the_order_of_lightness_and_legible(palette: tuple[tuple[str, str], ...]) -> None:
    lights = [linear(back) for back, _ in palette]
    steps = np.diff([math.log(light + 0.05) for light in lights])
    assert (np.abs(steps) > 0.12).all()
    assert len(set(np.sign(steps))) == 1
    for back, ink in palette:
        low, high = sorted([linear(back), linear(ink)])
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize("palette", [DIVERGING_LIGHT, DIVERGING_DARK])
def test_levels_about_0_are_legible_and_further_from_the_paper_on_either_side(
    palette: tuple[tuple[str, str], ...],
) -> None:
    lights = [math.log(linear(back) + 0.05) for back, _ in palette]
    for side in (lights[3::-1], lights[3:]):
        assert len(set(np.sign(np.diff(side)))) == 1
        assert (np.abs(np.diff(side)) > 0.12).all()
    for back, ink in palette:
        low, high = sorted([linear(back), linear(ink)])
        assert (high + 0.05) / (low + 0.05) >= 4.5
