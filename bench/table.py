"""`python -m bench.table`: train many models on many texts, score them, and write docs/results.md.

Each run uses one thread, and as many run at a time as there are processors; lengths are in steps, so that neither the
machine's speed nor other load changes a figure. Runs go to checkpoints/results/, and finished ones are not trained
again. Texts are read from data/; missing ones are left out. The page's first section is that of `bench.defaults`, and
two are those of `bench.agreement` and `bench.fill`.
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

from bench import agreement, contest, defaults, doubling, fill
from bench.command import report
from bench.markdown import table
from bench.sections import PAGE
from bench.texts import DATA, TEXTS
from charlm.config import ModelConfig
from charlm.models.architecture import weight_shapes
from charlm.text.corpus import load_corpus

RUNS: Final = Path("checkpoints", "results")
HIDDEN: Final = 512
CELLS: Final = ("lstm", "gru", "rnn")
STEPS: Final = 1000
TOKENIZED: Final = ("der-prozess",)
TOKENIZERS: Final = ("char", "byte", "sentencepiece")
Row = dict[str, Any]
_INTRODUCTION: Final = """# Results

Validation loss on the last tenth of each text, which is not trained on, but on which each network's best checkpoint was
chosen; lower is better. Networks carry their state from its first character to its last unless stated otherwise. All
figures were produced by scripts.

## What the defaults reach

`charlm train TEXT --time 30s`, `3m` and `10m`, no other options, in bits per character. The second table has the
same in nats, beside cold windows: the mean loss over windows of 256 characters that each begin from zero state, which
is how models of fixed context are scored. `python -m bench.defaults --text NAME --time 30s` measures one row: use a
quiet machine. Mind the machine and the commit of each row: older ones were measured with older defaults, those of one
thread had half of a machine, beside another run, and cores without bf16 take half as many steps or fewer.
"""
_EQUAL: Final = f"""
## Networks, n-gram models and compressors on the same texts

`make results` trains all the models below on the texts in `data/`, scores them and writes this page. Networks read
{STEPS:,} chunks of 16 x 64 characters; n-gram models and compressors read the whole training text. Each network was
trained once; another seed may move its figure by 0.02."""
_COMPARISON: Final = """
### The demo's network compared with others

Two LSTM layers of 512 units on one-hot characters, as in the lecture's demo, trained with charlm's default optimizer;
a GRU and a tanh RNN with as many parameters; n-gram models, each method with its best order; compressors, measured by
what the validation text adds to the compressed training text. Figures are bits per character, with half of the 95 %
interval (circular block bootstrap over the text) after \u00b1. Most of the names are in alphabetical order, which a
network that carries its state from one to the next can use. On the longer texts 1,000 chunks are hardly more than one
pass, often too few to beat the n-gram models.
"""
_SOURCES: Final = """
## The texts
"""
_DEMONSTRATION: Final = """
### The demo as it was trained

`--preset josef-k-2017` uses the demo's optimizer as well: Adam at 0.001, 64 windows of 100 characters, dropout of 0.5
between the layers. Five passes through Der Prozess are {steps:,} such updates. They end at {figure} bits per
character.
"""
_SEGMENTATION: Final = """
### Characters, bytes and SentencePiece

Two layers of 256, two passes. All figures are bits per *character*, whatever the tokens are. SentencePiece is scored
on one segmentation of the text, the one its own model prefers. Other segmentations spell the same text, and their
probability is not added, so the figure is an upper bound on the text's bits; how far above is unknown. Bytes lose a
little in the same way, to byte strings that are not UTF-8. The number of passes is equal, the number of updates is
not: pieces are longer than characters.
"""


class Job(NamedTuple):
    """A run: its name, its text and the options that differ between runs."""

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
        *defaults.section(),
        *doubling.section(),
        *contest.section(),
        _EQUAL,
        *_comparison(cells, runs),
        *_demonstration(demo, runs),
        *_segmentation(tokenizers, runs),
        *agreement.section(),
        "",
        *fill.section(),
        *_sources(texts),
    ]
    PAGE.write_text("\n".join(parts) + "\n")
    print(f"wrote {PAGE}")


# what is trained


def _cells(text: str) -> Iterable[Job]:
    """The demo's network, and a GRU and a tanh RNN whose number of parameters is as near as whole units allow."""
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
    return Job("josef-k", "der-prozess", ("--preset", "josef-k-2017", "--epochs", "5"))


# training and scoring


def _train(job: Job) -> Row:
    """What `charlm train` reports at the end; a run that has finished reports it again."""
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
    yield from table(["", *columns], [[row, *(column[row] for column in columns.values())] for row in rows])
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
        "vocabulary": f"{len(set(corpus.train)):,}",
        "passes of each network": f"{runs[jobs[0]]['characters_seen'] / len(corpus.train):.1f}",
        "parameters, millions": " to ".join(sizes),
        **{name: _figure(best[name]) for name in compressors},
        **{name: f"{_figure(best[name])}, order {best[name]['model'].split()[-1]}" for name in counted},
        **{cell: _figure(best[cell]) for cell in reversed(CELLS)},
        "lower: lstm or n-gram": _ahead(found["standings"]),
    }


def _figure(row: Row) -> str:
    if row["interval"] is None:
        return f"{row['bits_per_character']:.3f}"
    return f"{row['bits_per_character']:.3f} \u00b1 {(row['interval'][1] - row['interval'][0]) / 2:.3f}"


def _ahead(standings: Sequence[Row]) -> str:
    """The LSTM, which comes first, against the best n-gram model."""
    found = standings[0]
    doubt = "" if found["sure"] else " (not significant)"
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
    yield from table(["", *TOKENIZERS], rows)
    yield ""
    yield from _commands([job for jobs in tokenizers.values() for job in jobs])


def _sources(texts: Sequence[str]) -> Iterator[str]:
    yield _SOURCES
    hashes = {text: hashlib.sha256((DATA / f"{text}.txt").read_bytes()).hexdigest() for text in texts}
    yield from table(["", "what it is", "SHA-256"], [[text, TEXTS[text], f"`{hashes[text]}`"] for text in texts])


def _commands(jobs: Iterable[Job]) -> Iterator[str]:
    yield "```sh"
    for job in jobs:
        yield " ".join(["charlm train", f"data/{job.text}.txt", "--name", job.name, *job.options])
    yield "```"


if __name__ == "__main__":
    main()
