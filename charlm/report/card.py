"""A model card from a checkpoint alone: Markdown with the YAML that the Hugging Face Hub reads.

Every sentence is a figure of the checkpoint or follows from one. Paths are shown from the folder that the files have in
common, and no further up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Final

from charlm import __version__
from charlm.config import ExportConfig, val_share
from charlm.errors import quoted
from charlm.export.formats import Exported, ExportFormat
from charlm.report.markdown import code, table, yaml
from charlm.report.words import bits, duration
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import Validation
from charlm.storage.runs import default_name
from charlm.text.corpus import STDIN, Source
from charlm.text.known import KNOWN
from charlm.text.split import FILES, RECORDS
from charlm.training.again import repeat_run

_MOST_FILES: Final = 100  # that are listed
_NAMED: Final = 20  # that a command names
_MOST_VALIDATIONS: Final = 20
_MOST_CHARACTERS: Final = 300  # of a vocabulary
_GAP: Final = 0.25  # nats by which the training loss is below the validation loss, from which that is said
_FOLDER: Final = "texts"  # stands in the command for many files
_DONOR: Final = "donor.safetensors"
_UNITS: Final = {"char": "character", "byte": "byte", "sentencepiece": "SentencePiece token"}
_TAGS: Final = {"char": "character-level", "byte": "byte-level", "sentencepiece": "sentencepiece"}


def export_card(checkpoint: Checkpoint, path: Path, config: ExportConfig) -> Exported:
    """The model card of a checkpoint that was read from `path`, as UTF-8."""
    return Exported(data=model_card(checkpoint, path, config.licence).encode())


CARD: Final = ExportFormat(suffix=".md", text=True, licence=True, export=export_card)


def model_card(checkpoint: Checkpoint, path: Path, licence: str = "") -> str:
    """The model card of a checkpoint that was read from `path`."""
    in_run = path.stem in ("best", "last", "previous") and path.parent.name
    return _Card(checkpoint, path.parent.name if in_run else path.stem, path.name, licence).text()


def repository_card(checkpoint: Checkpoint, repository: str) -> str:
    """The model card of OWNER/NAME on the Hub, whose model this is."""
    return _Card(checkpoint, repository.rpartition("/")[2], f"hf:{repository}").text()


class _Card:
    """The facts of a checkpoint, and the sections that are made of them.

    `name` is the model's, and `where` names it to charlm.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, where: str, licence: str = "") -> None:
        self.checkpoint, self.name, self.where, self.licence = checkpoint, name, where, licence
        self.config, self.corpus, self.result = checkpoint.config, checkpoint.corpus, checkpoint.result
        self.tokenizer = checkpoint.open_tokenizer()
        self.files = _from_common_folder([source.path for source in self.corpus.sources])

    def text(self) -> str:
        sections = {
            "": [self._summary()],
            "Results": self._results(),
            "Use": self._use(),
            "Training text": self._training_text(),
            "Training": self._training(),
            "Validation losses": self._validations(),
            "Limitations": [f"- {line}" for line in self._limitations()],
        }
        parts = [f"---\n{self._front_matter()}\n---", f"# {code(self.name)}"]
        for title, paragraphs in sections.items():
            if paragraphs:
                between = "\n" if title == "Limitations" else "\n\n"
                parts += [f"## {title}"] * bool(title) + [between.join(paragraphs)]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self) -> str:
        kind = _TAGS.get(self.tokenizer.kind, self.tokenizer.kind)
        scored = [("validation", self._validation_loss()), ("test", self.result.test_loss if self.result else None)]
        results = [self._scored(split, loss) for split, loss in scored if loss is not None]
        return yaml(
            {
                **({"license": self.licence} if self.licence else {}),
                "library_name": "charlm",
                "pipeline_tag": "text-generation",
                "tags": [
                    "charlm",
                    "safetensors",
                    "language-model",
                    *["recurrent-neural-network"] * (self.config.model.model == "recurrent"),
                    self.config.model.kind,
                    kind,
                ],
                **({"model-index": [{"name": self.name, "results": results}]} if results else {}),
            }
        )

    def _scored(self, split: str, loss: float) -> dict[str, object]:
        """A result as the Hub's model index has it."""
        files = self.files[0] if len(self.files) == 1 else f"{len(self.files):,} files"
        metrics: list[object] = [
            {"type": "loss", "name": "nats per character", "value": loss},
            {"type": "bits_per_character", "name": "bits per character", "value": bits(loss)},
        ]
        if (perplexity := _perplexity(loss)) is not None:
            metrics.append({"type": "perplexity", "name": "perplexity per character", "value": perplexity})
        return {
            "task": {"type": "text-generation"},
            "dataset": {"type": "text", "name": f"{files} ({split} text)", "split": split},
            "metrics": metrics,
        }

    def _validation_loss(self) -> float | None:
        return self.result.val_loss if self.result else self.checkpoint.training.best

    def _summary(self) -> str:
        model, unit = self.config.model, self._unit()
        recurrent = model.model == "recurrent"
        layers = f"{model.layers} {'recurrent ' * recurrent}layer{'s' * (model.layers != 1)} of {model.hidden:,} units"
        what = "cell" if recurrent else "model"
        read = {"none": "one text", "line": "lines", "paragraph": "paragraphs", "file": "files"}
        separate = ", each read by itself" if self.config.data.records != "none" else ""
        return (
            f"A language model that predicts the next {unit}: {layers} ({what}: {code(model.kind)}), "
            f"{self.checkpoint.parameters:,} parameters, trained with charlm on "
            f"{self.corpus.train_characters:,} characters ({read[self.config.data.records]}{separate})."
        )

    def _unit(self) -> str:
        return _UNITS.get(self.tokenizer.kind, "token")

    def _results(self) -> list[str]:
        result, loss = self.result, self._validation_loss()
        rows = [("validation", self.corpus.val_characters, loss)]
        rows.append(("test", self.corpus.test_characters, result.test_loss if result else None))
        lines = [
            (text, f"{characters:,}", f"{loss:.4f}", f"{bits(loss):.4f}", _figure(_perplexity(loss)))
            for text, characters, loss in rows
            if loss is not None
        ]
        if not lines:
            return ["Nothing was held out, so that nothing is known of other text than the training text."]
        columns = ("text", "characters", "nats per character", "bits per character", "perplexity per character")
        return [table(columns, lines), " ".join(self._about_results())]

    def _about_results(self) -> Iterator[str]:
        if self.result is None:
            yield "The run has not finished: this is its lowest validation loss so far, on a part of the text."
        yield "The validation text chose the best of the run's models, so its figures favour this model a little."
        if self.result and self.result.test_loss is not None:
            yield "The test text was scored once, at the end; no choice has seen it."
        yield "Every character counts, also those that are not in the vocabulary."

    def _use(self) -> list[str]:
        temperature = self.result.temperature if self.result else None
        where = f" --temperature {temperature:g}" if temperature else ""
        also = f", temperature={temperature:g}" if temperature else ""
        install = "pip install 'charlm-cli[hub]'\n" if self.where.startswith("hf:") else ""
        sample = f"charlm sample {quoted(self.where)}{where}"
        evaluate = f"charlm eval {quoted(self.where)} --text FILE"
        return [
            f"```sh\n{install}{sample}\n{evaluate}\n```",
            "In Python:",
            f"```python\nimport charlm\n\nmodel = charlm.load({self.where!r})\n"
            f"print(model.sample(length=300{also}))\n```",
        ]

    def _training_text(self) -> list[str]:
        corpus = self.corpus
        rows = [
            (code(name), _part(source), f"{source.characters:,}", f"{source.bytes:,}", f"`{_hex(source.sha256)}`")
            for name, source in zip(self.files, corpus.sources, strict=True)
        ]
        more = len(rows) - _MOST_FILES
        return [
            table(("file", "used for", "characters", "bytes in UTF-8", "SHA-256 in UTF-8"), rows[:_MOST_FILES]),
            *([f"and {more:,} more files."] if more > 0 else []),
            f"{corpus.train_characters:,} characters for training, {corpus.val_characters:,} for validation, "
            f"{corpus.test_characters:,} for the test; {self._split()} SHA-256 of all parts: "
            f"`{_hex(corpus.fingerprint)}`.",
            *map(_known, dict.fromkeys(source.sha256 for source in corpus.sources if _is_known(source))),
        ]

    def _split(self) -> str:
        if self.corpus.split == RECORDS:
            return "records were held out as a whole, by the hash of their text."
        if self.corpus.split == FILES:
            return "files were held out as a whole, by the hash of their text."
        return "what was held out by a share is the end of each file."

    def _training(self) -> list[str]:
        made, state = self.checkpoint.environment, self.checkpoint.training
        rows = [
            ("updates", f"{state.step:,} (this model)"),
            ("time", duration(self.checkpoint.bookkeeping.seconds)),
            ("device", f"{code(made.device)} {code(made.device_name) if made.device_name else ''}".strip()),
            ("precision", code(made.precision)),
            ("threads", str(made.threads)),
            ("system", code(made.system)),
            ("Python", code(made.python)),
            ("PyTorch", code(made.torch)),
            ("state SHA-256", f"`{self.checkpoint.state_sha256}`"),
        ]
        return [
            f"```sh\n{self._command()}\n```",
            " ".join(self._about_command()),
            table(("", "of this run"), rows),
            f"This card was made by charlm {__version__}.",
        ]

    def _command(self) -> str:
        sources = list(zip(self.files, self.corpus.sources, strict=True))
        data, held = self.config.data, dict[str, str]()
        for option, value in (("val", data.val), ("test", data.test)):
            if val_share(value, option) is None:  # it is a file, whose path is the run's own
                held[option] = next((n for n, s in sources if s.held_out and s.test == (option == "test")), value)
        own = [name for name, _ in sources if name not in held.values()]
        corpus = own if len(own) <= _NAMED else [_FOLDER]
        donor = _DONOR if self.checkpoint.bookkeeping.init_from else ""
        return repeat_run(self.checkpoint, default_name(self.name), corpus, held, donor)

    def _about_command(self) -> Iterator[str]:
        bookkeeping, train = self.checkpoint.bookkeeping, self.config.train
        yield "This command repeats the run from the files above."
        if len(self.files) > _NAMED:
            yield f"`{_FOLDER}` stands for a folder that holds them."
        if bookkeeping.init_from:
            yield f"`{_DONOR}` is the model that it began with, state SHA-256 `{_hex(bookkeeping.init_from)}`."
        if train.time:
            yield (
                "The run had a time budget, so that the number of its updates and their learning rates followed the "
                "speed of the machine: another run ends close to this one, not with the same weights."
            )
        else:
            yield "With the versions and the kind of device below it ends with the same weights."
        for reason in bookkeeping.inexact:
            yield f"The run differs from an uninterrupted one: {code(reason)}."

    def _validations(self) -> list[str]:
        history = _thinned(self.checkpoint.history)
        rows = [
            (f"{row.step:,}", f"{row.characters_seen:,}", f"{row.train_loss:.4f}", f"{row.val_loss:.4f}")
            for row in history
        ]
        columns = ("update", "characters seen", "training loss", "validation loss")
        return [table(columns, rows), "In nats per character, on a part of the validation text."] if rows else []

    def _limitations(self) -> Iterator[str]:
        yield from self._about_vocabulary()
        yield from self._about_exposure()
        if self.config.data.records != "none":
            yield "Each text is read from the initial state: nothing is carried from one to the next."
        if self.result and self.result.val_loss is not None and self.result.test_loss is None:
            yield "There was no test text: the text that it was scored on also chose it."
        yield f"It is one run with one seed ({self.config.train.seed}); other seeds lead to other losses."

    def _about_vocabulary(self) -> Iterator[str]:
        tokenizer = self.tokenizer
        vocabulary = tokenizer.state().table.get("vocabulary")
        if not isinstance(vocabulary, str):
            yield f"Its vocabulary has {tokenizer.size:,} {self._unit()}s, with which any text can be spelt."
            yield "What it writes need not be valid UTF-8."
            return
        more = f" and {len(vocabulary) - _MOST_CHARACTERS:,} more" if len(vocabulary) > _MOST_CHARACTERS else ""
        yield (
            f"It writes only the {tokenizer.size:,} characters of its training text: "
            f"{code(vocabulary[:_MOST_CHARACTERS])}{more}. Any other is read as their mean, "
            f"and all others together have the probability {tokenizer.escape:.3g}."
        )

    def _about_exposure(self) -> Iterator[str]:
        result, characters = self.result, self.corpus.train_characters
        if result is None or not characters:
            return
        passes = f"{result.characters_seen / characters:.3g}"
        yield f"It has read {result.characters_seen:,} characters in training, {passes} times its training text."
        if result.val_loss is not None and result.val_loss - result.train_loss > _GAP:
            yield (
                f"Its training loss at the end, {result.train_loss:.4f} nats, was below its validation loss, "
                f"{result.val_loss:.4f}: it may write passages of its training text. `charlm novelty` finds them."
            )


def _from_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths from the folder that they have in common, with / between names; of one file, its name.

    >>> _from_common_folder(["/home/a/b/c.txt", "/home/a/d.txt"]), _from_common_folder(["C:\\\\home\\\\a.txt", "-"])
    (['b/c.txt', 'd.txt'], ['a.txt', '-'])
    """
    folders = [_pure(path).parent.parts for path in paths if path != STDIN]
    shared = 0
    while folders and all(len(parts) > shared and parts[shared] == folders[0][shared] for parts in folders):
        shared += 1
    return [path if path == STDIN else "/".join(_pure(path).parts[shared:]) for path in paths]


def _pure(path: str) -> PurePath:
    return PureWindowsPath(path) if re.match(r"[A-Za-z]:[\\/]|\\\\", path) else PurePosixPath(path)


def _part(source: Source) -> str:
    return ("test" if source.test else "validation") if source.held_out else "training"


def _hex(digest: str) -> str:
    """A hash, of which a stranger's checkpoint may say anything."""
    return re.sub("[^0-9a-f]", "?", digest)


def _is_known(source: Source) -> bool:
    return any(source.sha256 == known.sha256 for known in KNOWN.values())


def _known(sha256: str) -> str:
    known = next(known for known in KNOWN.values() if known.sha256 == sha256)
    command = "charlm data get " + known.name
    return f"SHA-256 `{sha256}` is {known.about} (`{command}`); licence: {known.licence}."


def _thinned(history: Sequence[Validation]) -> list[Validation]:
    """At most so many validations, evenly spaced, with the first, the last and the lowest."""
    count = len(history)
    if count <= _MOST_VALIDATIONS:
        return list(history)
    kept = {round(k * (count - 1) / (_MOST_VALIDATIONS - 1)) for k in range(_MOST_VALIDATIONS)}
    kept.add(min(range(count), key=lambda k: history[k].val_loss))
    return [history[k] for k in sorted(kept)]


def _perplexity(loss: float) -> float | None:
    """exp(loss), or None where it overflows."""
    return math.exp(loss) if loss < math.log(1e300) else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}" if value < 1e6 else f"{value:.3g}"
