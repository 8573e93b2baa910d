"""Known corpora: nothing but the bytes whose hash is known comes back, whatever a network does."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from charlm.errors import CharlmError, ConfigError
from charlm.text.known import KNOWN, KnownCorpus, fetch, find_corpus, python_docs

CONTENT = "Served by nobody but this test.\r\n\ufeffé\n".encode()
ADDRESS = "somebody/something/0123456789abcdef0123456789abcdef01234567/text.txt"
CORPUS = KnownCorpus(
    "mine", "a test's own", "MIT", "nowhere", ADDRESS, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
)

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine's own address while the block runs; yields its address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def sends(content: bytes, status: int = 200, promised: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content) if promised is None else promised))
        request.end_headers()
        request.wfile.write(content)

    return answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests behind a proxy still reaches this machine itself."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.mark.parametrize("folder", ["", "/", "/a/mirror", "/a/mirror/"])
def test_a_corpus_is_fetched_from_the_mirror_byte_by_byte(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    with serving(sends(CONTENT)) as (mirror, asked):
        monkeypatch.setenv("CHARLM_MIRROR", mirror + folder)
        assert fetch(CORPUS) == CONTENT
    assert asked == [f"{folder.rstrip('/')}/{ADDRESS}"]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\n", CONTENT.replace(b"\r\n", b"\n"), b"<html>"])
def test_other_bytes_are_refused_by_their_hash(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    with serving(sends(content)) as (mirror, _):
        monkeypatch.setenv("CHARLM_MIRROR", mirror)
        with pytest.raises(CharlmError, match=r"is not mine: its SHA-256 differs; nothing was written"):
            fetch(CORPUS)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_the_server_does_not_have_is_an_error_with_its_address(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with serving(sends(CONTENT, status)) as (mirror, _):
        monkeypatch.setenv("CHARLM_MIRROR", mirror)
        with pytest.raises(CharlmError, match=rf"cannot download {mirror}/{ADDRESS}: HTTPError; nothing was written"):
            fetch(CORPUS)


def test_a_connection_that_breaks_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(sends(CONTENT[:9], promised=len(CONTENT))) as (mirror, _):
        monkeypatch.setenv("CHARLM_MIRROR", mirror)
        with pytest.raises(CharlmError, match="cannot download"):
            fetch(CORPUS)


def test_a_server_that_is_down_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(sends(CONTENT)) as (mirror, _):
        pass
    monkeypatch.setenv("CHARLM_MIRROR", mirror)
    with pytest.raises(CharlmError, match=r"cannot download .*: ConnectionError"):
        fetch(CORPUS)


@pytest.mark.parametrize("mirror", ["127.0.0.1:1", "mirror", "gopher://127.0.0.1", "http://", "http://[::1"])
def test_a_mirror_that_is_no_web_address_is_not_called_a_wrong_text(
    monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("CHARLM_MIRROR", mirror)
    with pytest.raises(CharlmError, match="cannot download") as raised:
        fetch(CORPUS)
    assert "SHA-256" not in str(raised.value)


def test_the_interpreters_own_text_is_long_exact_and_the_same_each_time() -> None:
    content = python_docs()
    assert 400_000 < len(content.decode()) < 600_000  # about 465,000 in Python 3.11
    assert python_docs() == content == fetch(find_corpus("python-docs"))
    assert content.endswith(b"\n")
    assert b"\r" not in content


@pytest.mark.parametrize("corpus", KNOWN.values(), ids=list(KNOWN))
def test_every_known_corpus_is_pinned_and_described(corpus: KnownCorpus) -> None:
    assert KNOWN[corpus.name] is find_corpus(corpus.name) is corpus
    assert corpus.about
    assert corpus.licence
    assert corpus.source
    if corpus.address:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+/[0-9a-f]{40}/[\w./-]+", corpus.address)
        assert re.fullmatch(r"[0-9a-f]{64}", corpus.sha256)
        assert corpus.bytes > 10_000
    else:
        assert (corpus.name, corpus.bytes, corpus.sha256) == ("python-docs", 0, "")


@pytest.mark.parametrize("name", ["", "shakespeare", "Python-Docs", "../names"])
def test_an_unknown_name_is_refused_with_the_names_that_are_known(name: str) -> None:
    with pytest.raises(ConfigError, match="known: python-docs, tiny-shakespeare, the-trial, der-prozess, names"):
        find_corpus(name)
