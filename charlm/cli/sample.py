"""charlm sample"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import streams
from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT
from charlm.cli.outputs import Screen
from charlm.cli.texts import given_text
from charlm.config import DEFAULT_FOLDER, SAMPLE_OPTIONS, SAMPLING, SampleConfig, check_sample
from charlm.errors import ConfigError
from charlm.report.words import visible

if TYPE_CHECKING:
    from charlm.generation.generate import Piece
    from charlm.language_model import LanguageModel
    from charlm.text.overlap import Novelty, TrainingIndex

_SETTINGS: Final = Settings(SAMPLE_OPTIONS, check_sample, asdict(SampleConfig()))
_RULE: Final = "─" * 40 + "\n"


def register(app: typer.Typer) -> None:
    command(app, "sample", _SETTINGS)(sample)


def sample(
    screen: Screen,
    config: SampleConfig,
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    corpus: CorpusOption = None,
    prime: Annotated[
        str | None, typer.Option(help="text to continue", metavar="TEXT", rich_help_panel=SAMPLING)
    ] = None,
    prime_file: Annotated[
        str | None,
        typer.Option(
            help="file with the text to continue, - for standard input", metavar="FILE", rich_help_panel=SAMPLING
        ),
    ] = None,
    stop: Annotated[
        str | None, typer.Option(help="end the sample before this text", metavar="TEXT", rich_help_panel=SAMPLING)
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="continue each line that you enter; :help lists commands",
            rich_help_panel=SAMPLING,
        ),
    ] = False,
    unique: Annotated[bool, typer.Option("--unique", help="print no record twice", rich_help_panel=SAMPLING)] = False,
    novel: Annotated[
        bool, typer.Option("--novel", help="print no record of the training text", rich_help_panel=SAMPLING)
    ] = False,
    rank: Annotated[
        bool,
        typer.Option("--rank", help="print the most probable records first", rich_help_panel=SAMPLING),
    ] = False,
    no_echo: Annotated[
        bool, typer.Option("--no-echo", help="do not print the prime before the sample", rich_help_panel=OUTPUT)
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="print control characters unchanged in a terminal", rich_help_panel=OUTPUT)
    ] = False,
    novelty: Annotated[
        bool,
        typer.Option(
            "--novelty",
            help="also show how much the samples copy from the training text",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate text, one character at a time.

    Without a prime a sample begins where a line or a record does. With an empty one (--prime "") it begins where the
    text may begin, anywhere, also inside a word.

    A model that reads backward (train --direction backward) writes what comes before the prime, from there to the left;
    --stop is then what would stand before the sample. Its text is printed when it is complete.

    Text is printed as it is generated. Several samples are printed one after another, separated by NUL bytes in a pipe
    and by a horizontal rule in a terminal. A model of records (train --records) ends each sample by itself: lines are
    printed as lines, and paragraphs with a blank line between them.

    --unique, --novel and --rank choose among whole records, and try up to 50 for each that is wanted. --rank goes by
    bits per character, which --json shows.

    With --interactive you and the model write in turns. What you enter is read after the text so far, as it is: the
    text goes on where it stopped. An empty line lets the model go on, a line that ends in \\ goes on in the next one,
    with a line end between them, and a line that begins with : is a command. Ctrl-C stops a continuation and keeps what
    is written; Ctrl-D ends. Standard output has the continuations alone where it is no terminal.
    """
    if interactive:
        from charlm.cli.interactive import check_interactive

        whole = {"--unique": unique, "--novel": novel, "--rank": rank, "--novelty": novelty, "--json": as_json}
        check_interactive({**whole, "--count": config.count > 1, "--prime-file -": prime_file == "-"})
    text = _prime(given_text(screen, "--prime", prime) if prime is not None else None, prime_file)
    end = given_text(screen, "--stop", stop or "")

    from charlm import api
    from charlm.generation.generate import in_order, together

    model = api.open_model(checkpoint, checkpoints=checkpoints)
    screen.note_model(checkpoint, model.path)
    choice = model.choice(unique=unique, novel=novel, rank=rank, stop=end, corpus=corpus or ())
    training = _training_text(model, corpus or ()) if novelty else None
    _note_unseen(screen, model, text or "")
    screen.note_engine(config.engine, model.config.model)
    config = _completed(screen, model, config)
    if interactive:
        from charlm.cli.interactive import converse

        model.check_forward("--interactive", "nothing was sampled")

        converse(screen, model, config, prime=text or "", stop=end, echo=not no_echo, raw=raw)
        return
    pieces, bits = in_order(model.stream(config, prime=text, stop=end, choice=choice)), None
    if rank:
        pieces, bits = _ranked(model, config, text or "", pieces)
    echo = "" if no_echo else text or ""
    ahead, behind = ("", echo) if model.backward else (echo, "")
    shown = pieces if as_json else _printed(pieces, ahead, behind, model.records, raw=raw)
    samples = list(together(shown, keep=as_json or novelty))
    _note_length(screen, config, samples, records=model.records != "none", chosen=choice is not None)
    if as_json:
        more: dict[str, object] = {"bits_per_character": bits} if rank else {}
        more |= training.record(text or "", samples) if training else {}
        _print_json(screen, model, config, text or "", [ahead + sample.text + behind for sample in samples], more)
        return
    if bits:
        screen.note(f"bits per character: {bits[0]:.3f} (the first record) to {bits[-1]:.3f} (the last)")
    if training:
        training.report(screen, text or "", samples)


def _completed(screen: Screen, model: LanguageModel, config: SampleConfig) -> SampleConfig:
    """The options with what was left out; a fresh seed is named, where it makes a difference."""
    found = model.completed(config)
    if found.seed != config.seed and found.temperature:
        screen.note(f"seed {found.seed}; the same again: --seed {found.seed}")
    return found


def _ranked(
    model: LanguageModel, config: SampleConfig, prime: str, pieces: Iterator[Piece]
) -> tuple[Iterator[Piece], list[float]]:
    """Whole records, the most probable first, and their bits per character."""
    from charlm.generation.generate import Piece

    found = model.ranked([piece.text for piece in pieces], config, prime)
    ordered = (Piece(k, text, done=True, stopped=True) for k, (text, _) in enumerate(found))
    return ordered, [bits for _, bits in found]


def _note_length(
    screen: Screen, config: SampleConfig, samples: Sequence[Piece], *, records: bool, chosen: bool
) -> None:
    """Say which records were not found, or not written to their end."""
    from charlm.generation.choice import TRIES

    if chosen and len(samples) < config.count:
        found = f"found {len(samples):,} of {config.count:,} records in {TRIES * config.count:,} samples"
        screen.note(f"{found}; a higher --temperature finds more")
    cut = sum(not sample.stopped for sample in samples)
    if records and cut and config.length:
        verb = "s were" if cut > 1 else " was"
        screen.note(f"{cut:,} record{verb} cut off after {config.length:,} characters (--length)")


def _note_unseen(screen: Screen, model: LanguageModel, prime: str) -> None:
    """How many characters of the prime the model has never seen."""
    if unseen := len(model.tokenizer.encode(prime).escaped):
        verb = "s of the prime are" if unseen > 1 else " of the prime is"
        screen.note(f"{unseen} character{verb} not in the vocabulary; read as the mean embedding")


def _print_json(
    screen: Screen,
    model: LanguageModel,
    config: SampleConfig,
    prime: str,
    samples: list[str],
    more: dict[str, object],
) -> None:
    options = {name: value for name, value in asdict(config).items() if name != "count"}
    screen.json("sample", checkpoint=str(model.path), prime=prime, samples=samples, **more, **options)


@dataclass(frozen=True, slots=True)
class _TrainingText:
    """What samples are compared with; `records` where the model was trained on records."""

    index: TrainingIndex
    records: frozenset[str] | None
    backward: bool = False

    @property
    def remarks(self) -> list[str]:
        """Where samples are compared with less than the whole training text."""
        return [self.index.remark] if self.index.remark else []

    def novelties(self, samples: Sequence[Piece]) -> list[Novelty]:
        return [self.index.novelty(sample.text) for sample in samples]

    def new(self, prime: str, samples: Sequence[Piece]) -> tuple[int, int]:
        """How many of the whole records are not in the training text, and how many there are."""
        whole = [sample.text + prime if self.backward else prime + sample.text for sample in samples if sample.stopped]
        return sum(record not in (self.records or ()) for record in whole), len(whole)

    def record(self, prime: str, samples: Sequence[Piece]) -> dict[str, object]:
        """For JSON."""
        found: dict[str, object] = {"novelty": [novelty.record() for novelty in self.novelties(samples)]}
        found["remarks"] = self.remarks
        return found if self.records is None else {**found, "new_records": self.new(prime, samples)[0]}

    def report(self, screen: Screen, prime: str, samples: Sequence[Piece]) -> None:
        """Of each text its overlaps; of records, the share of new ones."""
        from charlm.report.console import paragraphs
        from charlm.report.overlap import describe_new, novelty_report

        if self.records is not None:
            paragraphs(screen.err, [describe_new(*self.new(prime, samples))])
        else:
            for novelty in self.novelties(samples):
                novelty_report(screen.err, novelty, self.remarks)


def _training_text(model: LanguageModel, corpus: Sequence[str]) -> _TrainingText:
    from charlm.storage.provenance import training_index

    index = training_index(model.checkpoint, model.path, corpus)
    records = None if model.records == "none" else model.training_records(corpus)
    return _TrainingText(index, records, model.backward)


def _prime(text: str | None, path: str | None) -> str | None:
    """The text to continue, None if there is none."""
    if text is not None and path is not None:
        raise ConfigError("--prime and --prime-file cannot be combined", kept="nothing was read")
    if path is None:
        return text
    from charlm.text.corpus import read_text

    return read_text(path).removeprefix("\ufeff")  # a byte order mark, which an editor has added


def _write(text: str, *, raw: bool) -> None:
    """Write text: unchanged to a pipe; to a terminal with its control characters shown instead of obeyed."""
    if sys.stdout.isatty() and not raw:
        text = visible(text)
    streams.write_data(text.encode())


def _printed(pieces: Iterator[Piece], echo: str, behind: str, kind: str, *, raw: bool) -> Iterator[Piece]:
    """The same pieces, each printed as it comes, with the prime before (or `behind`) each sample, and between them what
    parts them.

    On a terminal a line stands for the NUL between texts, and what follows begins on a line of its own.
    """
    from charlm.text.records import printed_between, printed_end

    terminal, between, last, begins = sys.stdout.isatty(), printed_between(kind), echo, False
    _write(echo, raw=raw)  # before the model has read it
    for piece in pieces:
        if begins:
            rule = "\n" * (not last.endswith("\n")) + _RULE
            _write(rule if terminal and between == "\0" else between, raw=True)
            _write(echo, raw=raw)
        text = piece.text + (behind + printed_end(kind)) * piece.done
        _write(text, raw=raw)
        begins, last = piece.done, text or echo * begins or last
        yield piece
    if terminal and last and not last.endswith("\n"):
        _write("\n", raw=raw)
