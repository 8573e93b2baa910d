"""The corpora of `charlm data`: one made from the interpreter itself, the others downloaded and checked by SHA-256.

The environment variable `CHARLM_MIRROR` replaces the host of every address, for networks that only reach a mirror.
This module returns bytes; the caller stores them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from charlm.errors import CharlmError, ConfigError


@dataclass(frozen=True, slots=True)
class KnownCorpus:
    """A corpus. `address` is its path on the host, pinned to a commit; empty for the text that comes with Python."""

    name: str
    about: str
    licence: str
    source: str
    address: str = ""
    bytes: int = 0
    sha256: str = ""


_HOST: Final = "https://raw.githubusercontent.com"

KNOWN: Final = {
    corpus.name: corpus
    for corpus in (
        KnownCorpus(
            "python-docs",
            "Python's language reference, as help() shows it; no download",
            "PSF-2.0",
            "pydoc_data.topics of the running interpreter",
        ),
        KnownCorpus(
            "tiny-shakespeare",
            "40,000 lines of Shakespeare; the usual benchmark of small models",
            "public domain",
            "github.com/karpathy/char-rnn",
            "karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        KnownCorpus(
            "the-trial",
            "Kafka, The Trial, in David Wyllie's English; the text of the Josef K. demo",
            "free to read, but copyrighted by the translator",
            "github.com/PetarV-/a-trip-down-lstm-lane",
            "PetarV-/a-trip-down-lstm-lane/e0ac706d6bc037424a81b9e8a0f88102043ff4cb/the_trial.txt",
            462_379,
            "a2a947417afdf245261ab77fcfc9335a7a11df6fd1e97498e48187a2fc343f31",
        ),
        KnownCorpus(
            "der-prozess",
            "Kafka, Der Prozess, in German",
            "public domain",
            "github.com/computationalstylistics/68_german_novels",
            "computationalstylistics/68_german_novels/4cc71e1d44647244b3df29474180a8a5e4fe8290/corpus/kafka_process.txt",
            460_869,
            "2146c4c25a872918df9dd905752271608d628da5d3ddf5b0449edd51f19407fd",
        ),
        KnownCorpus(
            "names",
            "32,033 first names, one a line",
            "MIT",
            "github.com/karpathy/makemore",
            "karpathy/makemore/988aa59e4d8fefa526d06f3b453ad116258398d4/names.txt",
            228_145,
            "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        ),
    )
}


def find_corpus(name: str) -> KnownCorpus:
    """The corpus of this name; raises ConfigError."""
    if name not in KNOWN:
        raise ConfigError(f"unknown corpus {name!r}", kept="nothing was downloaded", hint=f"known: {', '.join(KNOWN)}")
    return KNOWN[name]


def fetch(corpus: KnownCorpus) -> bytes:
    """The exact bytes of a corpus, from the interpreter or over the network; a download is checked by its SHA-256.

    Raises CharlmError if the download fails or its hash is wrong.
    """
    return _download(corpus) if corpus.address else python_docs()


def python_docs() -> bytes:
    """The interpreter's documentation topics, sorted by name; they depend on the version of Python."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)).encode() + b"\n"


def _download(corpus: KnownCorpus) -> bytes:
    from pooch.core import retrieve
    from pooch.utils import get_logger

    get_logger().setLevel(logging.ERROR)
    url = f"{(os.environ.get('CHARLM_MIRROR') or _HOST).rstrip('/')}/{corpus.address}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            content = Path(retrieve(url, known_hash=None, fname="text", path=folder)).read_bytes()
        except (OSError, ValueError) as error:  # network, disk, or an invalid address
            raise CharlmError(
                f"cannot download {url}: {type(error).__name__}",
                kept="nothing was written",
                hint="check the network and CHARLM_MIRROR, or run charlm data get python-docs",
            ) from error
    if hashlib.sha256(content).hexdigest() != corpus.sha256:
        raise CharlmError(
            f"the file at {url} is not {corpus.name}: its SHA-256 differs",
            kept="nothing was written",
            hint="try again, or check CHARLM_MIRROR",
        )
    return content
