"""Inputs that grow towards code not seen yet (coverage-guided, with atheris) for everything that reads foreign bytes.

    python tests/fuzz_atheris.py SECONDS

The first byte of an input says what reads the rest: a checkpoint, signed anew; a description; a SentencePiece model; a
tokenizer's table; a text. Whatever ends in more than a result or an error of the right kind, or takes over two
seconds, ends the run with a code other than 0. Needs `pip install atheris`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

CHILD: Final = "--inputs"
MEGABYTES: Final = 1024  # for the whole process, with the libraries in it


def main() -> int:
    """Fuzz in a child, which libFuzzer ends as it likes, and tell how many inputs it tried."""
    seconds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(_seeds()):
            Path(folder, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=2", f"-rss_limit_mb={MEGABYTES}", "-max_len=20000"]
        options = [*limits, "-print_final_stats=1", f"-artifact_prefix={os.getcwd()}/", "-seed=1", folder]
        done = subprocess.run(
            [sys.executable, __file__, CHILD, *options], capture_output=True, text=True, errors="replace", check=False
        )
    if match := re.search(r"number_of_executed_units:\s*(\d+)", done.stderr):
        print(f"tried {match[1]} inputs in {seconds} s")  # noqa: T201
    if done.returncode or not match:
        print(done.stderr[-5000:], file=sys.stderr)  # noqa: T201
        return done.returncode or 1
    return 0


def _seeds() -> list[bytes]:
    """One of each kind, and one that is nearly right."""
    from hostile import made, opened

    from charlm.text.sentencepiece import SentencePieceTokenizer

    model = SentencePieceTokenizer.train("a kitten sleeps under a bridge " * 9, 300, "bpe").state().model
    data = made().to_bytes()
    length = int.from_bytes(data[:8], "little")
    digits = data.index(b'"sha256":"') + 10
    header = data[8:digits] + b"0" * 64 + data[digits + 64 : 8 + length]
    description = json.dumps(opened(data)[1]).encode()
    table = json.dumps(dict(made().tokenizer.table)).encode()
    texts = ["é\r\n\ufeff\0\U0001f600".encode(), b"\xff\xfea\0"]
    kinds = [header + b"\0" + data[8 + length :], description, model, table]
    return [*(bytes([kind]) + seed for kind, seed in enumerate(kinds)), *(b"\4" + text for text in texts)]


def _fuzz() -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["charlm", "json"]):
        from hostile import framed

        from charlm.errors import CheckpointError, DataError
        from charlm.storage.checkpoint import load_checkpoint
        from charlm.storage.schema import from_json
        from charlm.text.corpus import load_corpus
        from charlm.text.tokenizer import TokenizerState, restore_tokenizer

    path = Path(tempfile.mkdtemp()) / "input"

    def checkpoint(data: bytes) -> None:
        header, _, body = data.partition(b"\0")
        path.write_bytes(framed(header, body))
        assert load_checkpoint(path).state_sha256

    def description(data: bytes) -> None:
        json.dumps(from_json(data.decode("latin-1")), allow_nan=False)

    def model(data: bytes) -> None:
        _round_trip(restore_tokenizer(TokenizerState({"kind": "sentencepiece"}, data)))

    def table(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict):
            _round_trip(restore_tokenizer(TokenizerState(value)))

    def text(data: bytes) -> None:
        path.write_bytes(data)
        corpus = load_corpus([str(path)], "0.1")
        assert (corpus.train + corpus.val).encode() == data

    readers: list[tuple[Callable[[bytes], None], type[Exception]]] = [
        *((reader, CheckpointError) for reader in (checkpoint, description, model, table)),
        (text, DataError),
    ]

    def one(data: bytes) -> None:
        if data:
            reader, allowed = readers[data[0] % len(readers)]
            with suppress(allowed):
                reader(data[1:])

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


def _round_trip(tokenizer: Any) -> None:
    text = "a kitten é\u2581\0\n\U0001f600"
    assert tokenizer.decode(tokenizer.encode(text)) == text


if __name__ == "__main__":
    if CHILD in sys.argv[1:2]:
        _fuzz()
    else:
        sys.exit(main())
