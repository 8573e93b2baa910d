"""`python -m bench.table`: train many models on many texts, score them, and write docs/results.md.

Each run computes on one thread, and there are as many at a time as there are processors; lengths are in steps, so that
neither the machine's speed nor what else it does moves a figure. Runs go to checkpoints/results/; one that is there is
not made again. Texts lie in data/; one that is not there is left out.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.command import report
from charlm.config import ModelConfig
from charlm.models.cells import weight_shapes
from charlm.text.corpus import load_corpus

DATA, RUNS, PAGE = Path("data"), Path("checkpoints", "results"), Path("docs", "results.md")
TEXTS: Final = {
    "alice": "Carroll, *Alice in Wonderland*: alice29.txt of the Canterbury corpus",
    "names": "`charlm data get names`",
    "der-prozess": "`charlm data get der-prozess`",
    "tiny-shakespeare": "`charlm data get tiny-shakespeare`",
    "crime-and-punishment-ru": "Dostoevsky, *Crime and Punishment*, in Russian",
    "war-and-peace": "Tolstoy, *War and Peace*, in English, as in Karpathy et al. 2015",
    "hongloumeng-zh": "Cao Xueqin, *Dream of the Red Chamber*, in Chinese",
    "emoji-test": "Unicode's emoji-test.txt: a table of all emoji, no prose",
}
HIDDEN: Final = 512
CELLS: Final = ("lstm", "gru", "rnn")
STEPS: Final = 1000
TOKENIZED: Final = ("der-prozess",)
TOKENIZERS: Final = ("char", "byte", "sentencepiece")
Row = dict[str, Any]
_INTRODUCTION: Final = f"""# Results

Bits per character on the last tenth of each text, which no model has seen; lower is better. `make results` trains all
of this on the texts that lie in `data/`, scores it and writes this page: no figure is typed by hand. Networks read
{STEPS:,} windows of 16 x 64 characters, counted models and compressors the whole of what is not held out. Each network
was trained once, and another seed may move its figure by 0.02."""
_COMPARISON: Final = """
## The demo's network beside others

Two LSTM layers of 512 units on one-hot characters, as in the lecture's demo, trained by charlm's own recipe; a GRU and
a tanh network of as many parameters; what was counted, each method in its best order; and what the text adds to a
compressed training part. Half of a figure's 95 % interval (circular block bootstrap over the text) stands after \u00b1.
Most of the names stand in alphabetical order, which a network that carries its state from one to the next can use. On
the longer texts so many windows are a pass or less, often too few to overtake what was counted.
"""
_SOURCES: Final = """
## The texts
"""
_DEMONSTRATION: Final = """
## The demo as it was trained

`--preset josef-k` takes the demo's optimizer as well: Adam at 0.001, 64 windows of 100, dropout of one half between the
layers. Five passes through Der Prozess are {steps:,} such updates, and end at {figure} bits per character.
"""
_SEGMENTATION: Final = """
## Characters, bytes, pieces

Two layers of 256 and two passes; every figure is in bits per *character*, whatever the tokens are. SentencePiece is
charged for one segmentation of the text, the one that its own model prefers. Other segmentations spell the same text,
and their probability is not counted: the text's probability under that model is at least what is charged, so the figure
is an upper bound on its bits, and how far above is not known. Bytes lose a little likewise, to byte strings that are no
UTF-8. Passes are equal and updates are not, since pieces are longer than characters.
"""


class Job(NamedTuple):
    """A run: its name, its text and the options that are not alike in all."""

    name: str
    text: str
    options: tuple[str, ...]


def main() -> None:
    texts = [text for text in TEXTS if (DATA / f"{text}.txt").exists()]
    cells = {text: list(_cells(text)) for text in texts}
    tokenizers: dict[str, list[Job]] = {text: list(_tokenizers(text)) for text in TOKENIZED if text in texts}
    demo = [_demo()] if "der-prozess" in texts else []
    jobs = [job for group in (*cells.values(), *tokenizers.values(), demo) for job in group]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = dict(zip(jobs, pool.map(_train, jobs), strict=True))
    parts = [
        _INTRODUCTION,
        *_comparison(cells, runs),
        *_demonstration(demo, runs),
        *_segmentation(tokenizers, runs),
        *_sources(texts),
    ]
    PAGE.write_text("\n".join(parts) + "\n")
    print(f"wrote {PAGE}")


# what is trained


def _cells(text: str) -> Iterable[Job]:
    """The demo's network, and a GRU and a tanh network of as many parameters as is possible to the unit."""
    vocabulary = len(set(load_corpus((str(DATA / f"{text}.txt"),), "0.1").train))
    wanted = _parameters("lstm", HIDDEN, vocabulary)
    for cell in CELLS:
        hidden = min(range(64, 4 * HIDDEN), key=lambda units: abs(_parameters(cell, units, vocabulary) - wanted))
        sizes = ("--cell", cell, "--layers", "2", "--hidden", str(hidden), "--embedding", "0")
        yield Job(f"{text}-{cell}", text, (*sizes, "--steps", str(STEPS)))


def _parameters(cell: str, hidden: int, vocabulary: int) -> int:
    model = ModelConfig(cell=cell, layers=2, hidden=hidden, embedding=0)
    return sum(prod(shape) for shape in weight_shapes(model, vocabulary).values())


def _tokenizers(text: str) -> Iterable[Job]:
    for tokenizer in TOKENIZERS:
        options = ("--tokenizer", tokenizer, "--hidden", "256", "--embedding", "64", "--epochs", "2")
        yield Job(f"{text}-{tokenizer}", text, options)


def _demo() -> Job:
    return Job("josef-k", "der-prozess", ("--preset", "josef-k", "--epochs", "5"))


# training and scoring


def _train(job: Job) -> Row:
    """What `charlm train` reports in the end; a run that has ended reports it again."""
    options = ["--threads", "1", "--precision", "fp32", "--checkpoints", str(RUNS), "--json", "-q", "--resume"]
    record = report("train", str(DATA / f"{job.text}.txt"), "--name", job.name, *job.options, *options)
    print(f"{record['val_bits_per_character']:.4f} {job.name}", flush=True)
    return record


def _scores(jobs: Sequence[Job], *options: str) -> Row:
    return report("eval", *(str(RUNS / job.name) for job in jobs), *options, "--json", "-q")


# the page


def _comparison(cells: Mapping[str, Sequence[Job]], runs: Mapping[Job, Row]) -> Iterator[str]:
    """Texts as columns, models as rows."""
    yield _COMPARISON
    columns = {text: _column(text, jobs, runs) for text, jobs in cells.items()}
    rows = list(next(iter(columns.values()), {}))
    yield from _table(["", *columns], [[row, *(column[row] for column in columns.values())] for row in rows])
    yield "\nWith `--threads 1 --precision fp32`, then `charlm eval NAME --baselines`:\n"
    yield from _commands([job for jobs in cells.values() for job in jobs])


def _column(text: str, jobs: Sequence[Job], runs: Mapping[Job, Row]) -> dict[str, str]:
    corpus, found = load_corpus((str(DATA / f"{text}.txt"),), "0.1"), _scores(jobs, "--baselines")
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in found["results"]:
        method, _, order = row["model"].rpartition(" ")
        by_model[method or order].append(row)
    best = {name: min(rows, key=lambda row: float(row["bits_per_character"])) for name, rows in by_model.items()}
    compressors = [name for name, row in best.items() if row["kind"] == "code length"]
    counted = [name for name, row in best.items() if row["kind"] == "counts"]
    counts = sorted(runs[job]["parameters"] for job in jobs)
    sizes = dict.fromkeys(f"{count / 1e6:.2f}" for count in (counts[0], counts[-1]))
    return {
        "characters": f"{len(corpus.train) + len(corpus.val):,}",
        "different ones": f"{len(set(corpus.train)):,}",
        "passes of a network": f"{runs[jobs[0]]['characters_seen'] / len(corpus.train):.1f}",
        "its parameters, millions": " to ".join(sizes),
        **{name: _figure(best[name]) for name in compressors},
        **{name: f"{_figure(best[name])}, order {best[name]['model'].split()[-1]}" for name in counted},
        **{cell: _figure(best[cell]) for cell in reversed(CELLS)},
        "ahead, lstm or counts": _ahead(found["standings"]),
    }


def _figure(row: Row) -> str:
    if row["interval"] is None:
        return f"{row['bits_per_character']:.3f}"
    return f"{row['bits_per_character']:.3f} \u00b1 {(row['interval'][1] - row['interval'][0]) / 2:.3f}"


def _ahead(standings: Sequence[Row]) -> str:
    """The LSTM, which comes first, against the best counted model."""
    found = standings[0]
    doubt = "" if found["sure"] else " (not sure)"
    return f"{found['winner_model']} by {found['difference_bits_per_character']:.3f}{doubt}"


def _demonstration(jobs: Sequence[Job], runs: Mapping[Job, Row]) -> Iterator[str]:
    for job in jobs:
        figure = _figure(_scores([job])["results"][0])
        yield _DEMONSTRATION.format(steps=runs[job]["steps"], figure=figure)
        yield from _commands([job])


def _segmentation(tokenizers: Mapping[str, Sequence[Job]], runs: Mapping[Job, Row]) -> Iterator[str]:
    if not tokenizers:
        return
    yield _SEGMENTATION
    rows = []
    for text, jobs in tokenizers.items():
        scores = zip(jobs, _scores(jobs)["results"], strict=True)
        rows.append([text, *(f"{_figure(row)}, {runs[job]['steps']:,} updates" for job, row in scores)])
    yield from _table(["", *TOKENIZERS], rows)
    yield ""
    yield from _commands([job for jobs in tokenizers.values() for job in jobs])


def _sources(texts: Sequence[str]) -> Iterator[str]:
    yield _SOURCES
    hashes = {text: hashlib.sha256((DATA / f"{text}.txt").read_bytes()).hexdigest() for text in texts}
    yield from _table(["", "what it is", "SHA-256"], [[text, TEXTS[text], f"`{hashes[text]}`"] for text in texts])


def _commands(jobs: Iterable[Job]) -> Iterator[str]:
    yield "```sh"
    for job in jobs:
        yield " ".join(["charlm train", f"data/{job.text}.txt", "--name", job.name, *job.options])
    yield "```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
