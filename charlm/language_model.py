"""A loaded model, ready to sample and score; `charlm.load` opens one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, Unpack, cast

from charlm.config import (
    BACKWARD,
    EXPORT_OPTIONS,
    FILL_OPTIONS,
    SAMPLE_OPTIONS,
    WORD_OPTIONS,
    Config,
    EvalConfig,
    ExportConfig,
    FillConfig,
    ModelConfig,
    SampleConfig,
    WordConfig,
    check_export,
    check_fill,
    check_sample,
    check_words,
)
from charlm.errors import ConfigError, DataError
from charlm.generation.choice import Choice, bits_per_character
from charlm.generation.conversation import Conversation
from charlm.generation.decoder import Decoder
from charlm.generation.engine import open_decoder
from charlm.generation.fill import Filling, Side, fill
from charlm.generation.generate import LENGTH, LONGEST, Piece, collect, completed, generate, in_order, together
from charlm.keywords import (
    ExportOptions,
    FillOptions,
    SampleOptions,
    WordOptions,
    documented,
)
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.hub import Pushed as Pushed  # noqa: PLC0414 - part of the API
from charlm.storage.provenance import own_corpus, training_records
from charlm.storage.records import loss_in_words
from charlm.storage.runs import Trained as Trained  # noqa: PLC0414 - part of the API
from charlm.text.direction import turned, turned_values
from charlm.text.pairs import MinimalPair, check_pairs
from charlm.text.records import as_records, end_of
from charlm.text.stored import StoredText, Text, blocks_of, line_blocks
from charlm.text.tokenizer import Ids, StoredTokens, Tokenizer, tokenize
from charlm.training.request import TrainingRequest as TrainingRequest  # noqa: PLC0414 - part of the API

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from charlm.evaluation.columns import CharacterTable, WordTable
    from charlm.evaluation.pairs import PairScores
    from charlm.evaluation.passages import Passage
    from charlm.evaluation.score import Scorable, Score
    from charlm.evaluation.surprisal import PositionLoss, Surprisal
    from charlm.export.formats import Exported
    from charlm.inspection.memory import Memory
    from charlm.inspection.saliency import Saliency
    from charlm.runtime.device import Runtime

PathLike = str | os.PathLike[str]
_Number = TypeVar("_Number", bound="np.generic")
_UNITS: Final = {"char": "characters", "byte": "bytes", "sentencepiece": "SentencePiece tokens"}


class LanguageModel:
    """A checkpoint, ready to write text and to score it.

    path         the file
    config       the options that it was trained with
    tokenizer    text to ids and back
    checkpoint   all that is in the file
    backward     whether it predicts characters from those that follow (`charlm.text.direction`)
    """

    def __init__(self, path: Path, checkpoint: Checkpoint, config: EvalConfig) -> None:
        self.path, self.checkpoint, self._config = path, checkpoint, config
        self._opened: tuple[tuple[str, str, int], Decoder] | None = None
        self.tokenizer: Tokenizer = checkpoint.open_tokenizer()
        self.records = config.records or checkpoint.config.data.records  # what it reads: `charlm.text.records`
        self.backward = checkpoint.config.data.direction == BACKWARD

    def __repr__(self) -> str:
        network = _network(self.config.model, self.config.data.tokenizer, self.tokenizer.size)
        loss = loss_in_words(self.checkpoint.result, self.checkpoint.history)
        return f"LanguageModel({str(self.path)!r}: {', '.join(filter(None, [*network, loss]))})"

    @property
    def config(self) -> Config:
        """The options that it was trained with."""
        return self.checkpoint.config

    def validation_text(self, corpus: Sequence[str] = ()) -> str:
        """The validation text of its run, from where it was or from the files `corpus`.

            model.score(model.validation_text()).loss  # the run's validation loss again

        Raises DataError when it is not found or has changed, or when there was none.
        """
        return str(self.open_validation_text(corpus))

    def open_validation_text(self, corpus: Sequence[str] = ()) -> Text:
        """The same, which stays on the disk where the corpus is large."""
        found = own_corpus(self.checkpoint, self.path, corpus).val
        if not found:
            raise DataError(
                f"{self.path} has no validation text (--val 0)",
                kept="nothing was scored",
                hint="name one with --text FILE",
            )
        return found if self.records == self.config.data.records else str(found)  # it is read in another way

    held_out = validation_text  # its name in earlier versions

    def test_text(self, corpus: Sequence[str] = ()) -> str:
        """The test text of its run (`--test`), found like its validation text; empty if there was none."""
        return str(own_corpus(self.checkpoint, self.path, corpus).test)

    def was_trained_on(self, text: Text) -> bool:
        """Whether this text, as a whole, is one of the files that the model was trained on."""
        content = sha256()
        for block in blocks_of(text):
            content.update(block.encode("utf-8", "surrogatepass"))
        digest = content.hexdigest()
        return any(source.sha256 == digest for source in self.checkpoint.corpus.training_sources)

    @documented(SampleOptions, SAMPLE_OPTIONS, asdict(SampleConfig()))
    def sample(self, *, prime: str | None = None, stop: str = "", **options: Unpack[SampleOptions]) -> str:
        """A text that the model writes, without the prime.

            print(model.sample(length=200, temperature=0.8, prime="It was"))

        The same options and seed give the same text; without a seed each call
        gives another. Raises ConfigError for an option.

        Parameters:
            prime             text to continue (default: none, and the sample
                              begins where a line or a record does; "": where a
                              text may begin, also inside a word)
            stop              end the sample before this text
        """
        return self.samples(prime=prime, stop=stop, **options)[0]

    @documented(SampleOptions, SAMPLE_OPTIONS, asdict(SampleConfig()))
    def samples(
        self,
        *,
        prime: str | None = None,
        stop: str = "",
        unique: bool = False,
        novel: bool = False,
        rank: bool = False,
        corpus: Sequence[str] = (),
        **options: Unpack[SampleOptions],
    ) -> tuple[str, ...]:
        """`count` texts, generated in parallel, each without the prime.

            for text in model.samples(count=3, length=80, seed=1):
                print(text)
            names.samples(count=20, unique=True, novel=True)

        Sample k is the same for any count, up to rounding. `unique`, `novel`
        and `rank` choose among whole records, of which at most 50 times
        `count` are tried: there may be fewer. Raises ConfigError for an option,
        or for these three where the model was trained on one text, and
        DataError if the training text is needed and not found.

        Parameters:
            prime             text to continue, as in `sample`
            stop              end each sample before this text
            unique            no record twice
            novel             no record of the training text
            rank              the most probable records first, by bits per
                              character
            corpus            where the training text is, if it was moved
        """
        config = self.completed(check_sample(options))
        choice = self.choice(unique=unique, novel=novel, rank=rank, stop=stop, corpus=corpus)
        texts = collect(self.stream(config, prime=prime, stop=stop, choice=choice), config.count)
        return tuple(text for text, _ in self.ranked(texts, config, prime or "")) if rank else tuple(texts)

    def choice(
        self,
        *,
        unique: bool = False,
        novel: bool = False,
        rank: bool = False,
        stop: str = "",
        corpus: Sequence[str] = (),
    ) -> Choice | None:
        """Which records `stream` takes; None where it takes all samples.

        Raises ConfigError where these options have no meaning, DataError where the training text is not found.
        """
        given = [name for name, on in (("--unique", unique), ("--novel", novel), ("--rank", rank)) if on]
        if not given:
            return None
        if self.records == "none":
            raise ConfigError(
                f"{given[0]} chooses among whole records, and {self.path} was trained on one text",
                kept="nothing was sampled",
                hint=f"leave out {given[0]}, or train with --records",
            )
        if stop:
            raise ConfigError(
                f"{given[0]} and --stop cannot be combined: it chooses among whole records", kept="nothing was sampled"
            )
        known = self.training_records(corpus) if novel else frozenset()
        return Choice(unique, frozenset(map(self._turned, known)))

    def training_records(self, corpus: Sequence[str] = ()) -> frozenset[str]:
        """The records of its training text, found like its validation text."""
        return training_records(self.checkpoint, self.path, self.records, corpus)

    def ranked(self, texts: Sequence[str], config: SampleConfig, prime: str = "") -> list[tuple[str, float]]:
        """Sampled records with their bits per character (with the prime and the end), the most probable first."""
        decoder = self._decoder(config.engine, config.precision, config.threads)
        records = [self._turned(prime) + self._turned(text) for text in texts]
        bits = bits_per_character(decoder, self.tokenizer, records, end_of(self.records)).tolist()
        return sorted(zip(texts, bits, strict=True), key=lambda pair: pair[1])

    def completed(self, config: SampleConfig) -> SampleConfig:
        """The same with what was left out: a fresh seed, and 500 characters or, of records, as many as they have."""
        return completed(config, LENGTH if self.records == "none" else LONGEST)

    def stream(
        self, config: SampleConfig, *, prime: str | None = None, stop: str = "", choice: Choice | None = None
    ) -> Iterator[Piece]:
        """The samples piece by piece as they are generated, for options that have been checked.

            for piece in model.stream(charlm.config.check_sample({"length": 200})):
                print(piece.text, end="", flush=True)

        A piece names the sample that it belongs to. `prime` and `stop` are those of `sample`. With a `choice` each
        piece is a whole record, and those that are not taken are passed over. A backward model's pieces are whole
        samples, in reading order.
        """
        pieces = self._stream(config, None if prime is None else self._turned(prime), self._turned(stop), choice)
        if not self.backward:
            return pieces
        return (replace(piece, text=self._turned(piece.text)) for piece in together(in_order(pieces)))

    def _stream(self, config: SampleConfig, prime: str | None, stop: str, choice: Choice | None) -> Iterator[Piece]:
        """The samples as the model writes them, after a prime as it reads it."""
        config = self.completed(config)
        decoder = self._decoder(config.engine, config.precision, config.threads)
        if self.records != "none":
            prime = prime or ""  # a record begins with the start input

        def sampled(first: int, count: int) -> Iterator[Piece]:
            some, stops = replace(config, count=count), (stop, end_of(self.records))
            return generate(decoder, self.tokenizer, some, prime=prime, stops=stops, first=first)

        return sampled(0, config.count) if choice is None else choice.take(sampled, config.count, prime or "")

    def conversation(self, config: SampleConfig) -> Conversation:
        """A text that you and the model write in turns, with the decoder of these options, which have been checked.

            config = model.completed(charlm.config.check_sample({"length": 200}))
            talk = model.conversation(config)
            talk.read("It was")
            print("".join(talk.write(config)))

        The model's state is kept from turn to turn; `undo` takes one back. Raises ConfigError for a backward model.
        """
        self.check_forward("a conversation", "nothing was sampled")
        return Conversation(
            self._decoder(config.engine, config.precision, config.threads), self.tokenizer, self.records
        )

    @documented(FillOptions, FILL_OPTIONS, asdict(FillConfig()))
    def fill(
        self,
        before: str,
        after: str,
        backward: LanguageModel | None = None,
        *,
        also: Sequence[str] = (),
        **options: Unpack[FillOptions],
    ) -> tuple[Filling, ...]:
        """What may stand between two texts, the most probable first.

            novel = charlm.load("novel")
            back = charlm.load("backward-novel")
            novel.fill("It was the best of ", ", it was", back)[0].text

        Candidates are the model's own, and those in `also`. They are scored by
        it and by a `backward` model (`charlm.generation.fill`). Raises
        ConfigError for an option, or a model of the wrong direction, DataError
        for texts that the models do not read.

        Parameters:
            before            text before the gap
            after             text after the gap
            backward          a model that reads backward
            also              further candidates
        """
        config = check_fill(options)
        return tuple(self.fillings(before, after, backward, config, also=also)[: config.count])

    def fillings(
        self,
        before: str,
        after: str,
        backward: LanguageModel | None,
        config: FillConfig,
        *,
        also: Sequence[str] = (),
    ) -> list[Filling]:
        """All candidates of `fill`, for options that have been checked."""
        self.check_forward("filling a gap", "nothing was filled")
        if backward is not None and not backward.backward:
            raise ConfigError(
                f"{backward.path} reads forward, and a gap is filled by a forward and a backward model",
                kept="nothing was filled",
                hint="charlm train CORPUS --direction backward makes one",
            )
        other = None if backward is None else backward._side(config)
        return fill(before, after, self._side(config), other, config, also)

    def _side(self, config: FillConfig) -> Side:
        if not self.tokenizer.one_per_character:
            raise ConfigError(
                f"gaps are filled with characters, but {self.path} has other tokens ({self.tokenizer.kind})",
                kept="nothing was filled",
                hint="use a model of characters",
            )
        decoder = self._decoder(config.engine, config.precision, config.threads)
        return Side(decoder, self.tokenizer, end_of(self.records), self.backward)

    def score(self, text: str, *, exact: bool = False) -> Score:
        """Loss, bits per character and perplexity of a text, every character of it.

            model.score("2 and 2 are 4.").bits_per_character

        The text is cut into lanes that are read in parallel, which is within 0.0005 bits per character of one pass
        from beginning to end. `exact` makes that pass.
        """
        from charlm.evaluation.score import score

        tokens = tokenize(self.tokenizer, self._turned(self.as_read(text)))
        with self._scoring() as (model, device):
            return score(model, self.tokenizer, tokens, exact=exact, records=self.records, device=device)

    def score_stored(
        self,
        text: StoredText,
        cells: NDArray[np.float64] | None = None,
        *,
        exact: bool = False,
        dynamic: bool = False,
    ) -> Score:
        """The score of a text on the disk, in memory that does not depend on its length.

        `cells` as in `charlm.evaluation.score.score_stored`, `dynamic` as in `nats`.
        """
        from charlm.evaluation.score import score_stored

        tokens = tokenize(self.tokenizer, turned(text, self.records) if self.backward else text)
        if dynamic:
            found = self._dynamic_score(tokens, cells)
        else:
            with self._scoring() as (model, device):
                found = score_stored(
                    model, self.tokenizer, tokens, exact=exact, device=device, cells=cells, records=self.records
                )
        if self.backward and cells is not None:
            cells[:] = cells[::-1].copy()
        return found

    def as_read(self, text: str) -> str:
        """A text as the model reads it: its records, each with its end, if it is a model of records."""
        return as_records(text, self.records)

    def _turned(self, text: str) -> str:
        """A text as it is read (`as_read`) in the model's direction, or one that it has written in reading order."""
        return turned(text, self.records) if self.backward else text

    def check_forward(self, what: str, kept: str = "nothing was scored") -> None:
        """Raise ConfigError for a backward model, where it cannot be used."""
        if self.backward:
            raise ConfigError(
                f"{what} goes forward through a text, but {self.path} reads it backward (--direction backward)",
                kept=kept,
                hint="use a forward model",
            )

    def check_one_text(self, option: str) -> None:
        """Raise ConfigError for a model that reads records, where an option needs one text."""
        if self.records != "none":
            raise ConfigError(
                f"{option} reads a text from its beginning to its end, but {self.path} reads records ({self.records})",
                kept="nothing was scored",
                hint=f"leave out {option}, or use --records none",
            )

    def nats(self, text: str, *, exact: bool = False, dynamic: bool = False) -> NDArray[np.float32]:
        """Negative log-likelihood, -ln P, of each of the text's N tokens: shape [N], in nats. Their sum is the score's.

        With `dynamic` the network keeps learning from the text that it has read (`charlm.evaluation.dynamic`), in fp32
        and in one pass; its weights are restored afterwards. Raises ConfigError for a model loaded with the decoder.
        """
        from charlm.evaluation.score import text_nats

        read = self.as_read(text)
        encoded = self.tokenizer.encode(self._turned(read))
        if dynamic:
            nats = self._dynamic_nats(encoded.ids)
        else:
            with self._scoring() as (model, device):
                nats = text_nats(model, self.tokenizer, encoded, exact=exact, records=self.records, device=device)
        return self._in_order(nats, read)

    def separate_nats(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Negative log-likelihood of each token of each text, every text read by itself from the initial state.

        Arrays of shapes [N], in nats. Many texts are read side by side, which is much faster than one by one; nothing
        is added to them.
        """
        from charlm.evaluation.separate import separate_nats

        ids = [self.tokenizer.encode(self._turned(text)).ids for text in texts]
        with self._scoring() as (model, device):
            found = separate_nats(model, self.tokenizer, ids, device=device)
        return [self._in_order(nats, text) for nats, text in zip(found, texts, strict=True)]

    def _in_order(self, values: NDArray[_Number], text: str) -> NDArray[_Number]:
        """What was found out about the characters of a text that was read in the model's direction, in their order."""
        return turned_values(values, text, self.records) if self.backward else values

    def separate_greedy(self, texts: Sequence[str]) -> list[NDArray[np.bool_]]:
        """Whether each of the tokens of `separate_nats` is the most probable one at its place: arrays of shapes [N]."""
        from charlm.evaluation.separate import separate_greedy

        ids = [self.tokenizer.encode(self._turned(text)).ids for text in texts]
        with self._scoring() as (model, device):
            found = separate_greedy(model, self.tokenizer, ids, device=device)
        return [self._in_order(likeliest, text) for likeliest, text in zip(found, texts, strict=True)]

    def pairs(
        self,
        pairs: Iterable[tuple[str, str] | tuple[str, str, str]],
        *,
        per_character: bool = False,
        end: str | None = None,
    ) -> PairScores:
        """Which text of each minimal pair (better, worse) is likelier, and how often that is the better one.

            model.pairs([("The dogs are here.", "The dogs is here.")]).total.accuracy

        Each text is read by itself and its end is charged (`charlm.evaluation.pairs`), or `end` in its place. The text
        with fewer bits is the likelier one, in all or `per_character`; ties count half. A third text is a pair's group.
        Raises DataError for an empty text, equal texts, or no pairs.
        """
        from charlm.evaluation.pairs import PairScores, check_one_record, frame_of, judge

        given = tuple(MinimalPair(*pair) for pair in pairs)
        check_pairs(given)
        check_one_record(given, self.records)
        if end is not None:
            self.check_forward("--end")
        frame = frame_of(self.tokenizer, self.records, end)
        texts = [frame.before + text + frame.end for pair in given for text in (pair.better, pair.worse)]
        nats = self.separate_nats(texts)
        if self.backward and frame.before:  # for which the line end behind a text is before it
            nats = [own[::-1] for own in nats]
        return PairScores(tuple(judge(self.tokenizer, given, frame, nats, per_character=per_character)), frame)

    def _dynamic_nats(self, ids: Ids) -> NDArray[np.float32]:
        from charlm.evaluation.dynamic import dynamic_nats
        from charlm.models.network import Network

        check_dynamic(self._config)
        self.check_one_text("--dynamic")
        with self._computing() as (runtime, model):
            return dynamic_nats(cast("Network", model), self.tokenizer, ids, threads=self._up_to(runtime))

    def _dynamic_score(self, tokens: StoredTokens, cells: NDArray[np.float64] | None) -> Score:
        from charlm.evaluation.dynamic import dynamic_score
        from charlm.models.network import Network

        check_dynamic(self._config)
        self.check_one_text("--dynamic")
        with self._computing() as (runtime, model):
            threads = self._up_to(runtime)
            return dynamic_score(cast("Network", model), self.tokenizer, tokens, cells=cells, threads=threads)

    def surprisal(
        self, text: str, *, likeliest: int = 0, within: int | None = None, forecast: bool = False
    ) -> Surprisal:
        """The surprisal of each token of a text, in one exact pass.

            for word in model.surprisal("2 and 2 are 5.").worst_words(3):
                print(word.text, word.bits)

        `likeliest` adds that many of the most probable tokens at each position, or at the first `within` positions;
        `forecast` adds the entropy before each token and its rank.
        """
        from charlm.evaluation.surprisal import surprisal, turned_surprisal

        read = self.as_read(text)
        with self._scoring() as (model, device):
            found = surprisal(
                model,
                self.tokenizer,
                self._turned(read),
                likeliest=likeliest,
                within=None if self.backward else within,
                forecast=forecast,
                records=self.records,
                device=device,
            )
        return turned_surprisal(found, read, within) if self.backward else found

    def passages(self, text: Text) -> Iterator[Passage]:
        """The characters of a text with bits, entropy and rank, passage by passage; one on the disk is never in memory.

        A text in memory is one passage, read in one exact pass; one on the disk has passages of up to 1,048,576
        characters (`charlm.evaluation.score.BlockReader`).
        """
        from charlm.evaluation.passages import passage_of
        from charlm.evaluation.surprisal import SurprisalReader

        if isinstance(text, str) or self.records != "none" or self.backward or not self.tokenizer.by_line:
            yield passage_of(self.surprisal(str(text), forecast=True))
            return
        reader, begin = SurprisalReader(self.tokenizer), 0
        for block in line_blocks(text):
            with self._scoring() as (model, device):
                judged = reader.read(model, block, device=device)
            yield passage_of(judged, begin)
            begin += len(block)

    def characters(self, text: str) -> CharacterTable:
        """Each character of a text with its record, bits, entropy and rank, as NumPy columns.

            table = model.characters("2 and 2 are 5.")
            table.character[table.bits > 8]

        `charlm.evaluation.columns` defines the columns; they are those of `charlm score --csv`.
        """
        from charlm.evaluation.columns import character_table

        return character_table(self.surprisal(text, forecast=True))

    @documented(WordOptions, WORD_OPTIONS, asdict(WordConfig()))
    def words(self, text: str, **options: Unpack[WordOptions]) -> WordTable:
        """Each word of a text with its record, number, bits, entropy and rank, as NumPy columns.

            table = model.words("2 and 2 are 5.", blank="before")
            table.word[table.bits.argmax()]
            pandas.DataFrame(table.columns())

        `charlm.evaluation.columns` defines words, blanks and the columns; they
        are those of `charlm score --words-tsv`. Raises ConfigError for an
        option.
        """
        from charlm.evaluation.columns import word_table

        return word_table(self.surprisal(text, forecast=True), check_words(options))

    def cold_nats(self, text: str, window: int = 256) -> NDArray[np.float64]:
        """Negative log-likelihood of each of the text's C characters, every `window` of them read from zero state.

        Shape [C], in nats. Models of fixed context are evaluated like this.
        """
        from charlm.evaluation.surprisal import cold_nats

        self.check_one_text("--cold-windows")
        with self._scoring() as (model, device):
            return cold_nats(model, self.tokenizer, text, window=window, backward=self.backward, device=device)

    def position_losses(self, text: str) -> tuple[PositionLoss, ...]:
        """Loss by the number of characters read since zero state, which shows how much context helps."""
        from charlm.evaluation.surprisal import position_losses

        with self._scoring() as (model, device):
            read = self._turned(self.as_read(text))
            return position_losses(model, self.tokenizer, read, records=self.records, device=device)

    def memory(
        self,
        text: str,
        *,
        contexts: Sequence[int] = (),
        positions: int | None = None,
        training_text: str | None = None,
    ) -> Memory:
        """What the model gains from each length of context, at evenly spread positions of a text.

            found = model.memory(model.validation_text())
            print(found.reach, found.reach_interval)

        `contexts` are numbers of characters (default: 1 to 1,000); with a `training_text`, n-gram models of it are
        scored at the same positions (`charlm.inspection.memory`). Raises DataError for a text that is shorter than the
        longest context, ConfigError for a backward model or one of records.
        """
        from charlm.inspection.memory import CONTEXTS, memory, spread_places, usual_positions
        from charlm.models.architecture import architecture_of

        self.check_forward("inspect memory", "nothing was computed")
        self.check_one_text("inspect memory")
        contexts = sorted(contexts or CONTEXTS)
        parameters = sum(weight.size for weight in self.checkpoint.weights.values())
        ids = self.tokenizer.encode(text).ids
        places = spread_places(len(ids), positions or usual_positions(parameters, contexts), contexts[-1])
        training = None if training_text is None else self.tokenizer.encode(training_text).ids
        with self._scoring() as (model, device):
            return memory(
                model,
                self.tokenizer,
                ids,
                places,
                contexts=contexts,
                training=training,
                receptive_field=architecture_of(self.config.model).receptive_field(self.config.model),
                device=device,
            )

    def saliency(self, text: str, *, positions: int | None = None, at: int | None = None) -> Saliency:
        """Which earlier characters the predictions depend on, at evenly spread positions of a text.

            found = model.saliency(model.validation_text())
            print(found.mean_occlusion[:10], found.correlation)

        Gradient times input and occlusion at distances 1 to 50 (`charlm.inspection.saliency`). With `at`, at this
        position alone. Raises DataError where fewer than 50 characters are before it, or for a character there that the
        model does not know; ConfigError for a backward model, one of records, or one that was loaded with the decoder.
        """
        from charlm.inspection.memory import spread_places
        from charlm.inspection.saliency import DISTANCES, POSITIONS, check_place, saliency
        from charlm.models.network import Network

        self.check_forward("inspect memory", "nothing was computed")
        self.check_one_text("inspect memory")
        check_dynamic(self._config, "gradients need")
        ids = self.tokenizer.encode(text).ids
        if at is None:
            places = spread_places(len(ids), positions or POSITIONS, DISTANCES)
        else:
            places = check_place(self.tokenizer, ids, at)
        with self._computing() as (_, model):
            return saliency(cast("Network", model), self.tokenizer, ids, places)

    @documented(ExportOptions, EXPORT_OPTIONS, asdict(ExportConfig()))
    def export(self, path: PathLike, **options: Unpack[ExportOptions]) -> Exported:
        """Write the model in a format for other programs, or its model card; returns what was written.

            model.export("model.onnx").parity.difference
            model.export("README.md", licence="mit")

        A file is written whole or not at all; an existing one is replaced. An
        ONNX file is compared with charlm in onnxruntime first. Raises
        ConfigError for an option, CharlmError where a library is missing or
        the file computes something else, StorageError if it cannot be written.
        """
        from charlm.export.formats import format_of
        from charlm.storage.durable import write_durably

        config = check_export(options)
        if os.path.realpath(path) == os.path.realpath(self.path):
            raise ConfigError(f"{os.fspath(path)} is the checkpoint itself", kept="nothing was written")
        exported = self.exported(format_of(os.fspath(path), config), config)
        write_durably(Path(path), exported.data)
        return exported

    def exported(self, name: str, config: ExportConfig) -> Exported:
        """`export` in the format of this name, for options that have been checked; writes nothing."""
        from charlm.export.formats import export

        return export(self.checkpoint, self.path, name, config)

    @contextmanager
    def _scoring(self) -> Iterator[tuple[Scorable, torch.device]]:
        """The model and its device, with its threads and in its precision while it scores."""
        with self._computing() as (runtime, _), runtime.autocast():
            yield self._reader, runtime.device

    @contextmanager
    def _computing(self) -> Iterator[tuple[Runtime, Scorable]]:
        from charlm.runtime.device import set_threads
        from charlm.runtime.settings import computing

        with computing():
            runtime, model = self._scorer
            set_threads(runtime.threads)
            yield runtime, model

    def prepare(self) -> None:
        """Import torch and build the network now, rather than at the first score."""
        with self._computing():
            pass

    def _decoder(self, engine: str, precision: str, threads: int) -> Decoder:
        """A decoder; the last one is kept, as packing the weights takes longer than sampling a few characters."""
        if self._opened is None or self._opened[0] != (engine, precision, threads):
            decoder = open_decoder(
                self.config.model, self.checkpoint.weights, engine=engine, precision=precision, threads=threads
            )
            self._opened = ((engine, precision, threads), decoder)
        return self._opened[1]

    @cached_property
    def _scorer(self) -> tuple[Runtime, Scorable]:
        from charlm.evaluation.score import ScorableDecoder
        from charlm.models.network import Network, import_weights
        from charlm.runtime.device import choose_device, choose_runtime, set_threads
        from charlm.training.trial import StepTrial

        config = self._config
        threads = set_threads(config.threads, at_most=self.checkpoint.environment.threads)
        if config.engine == "decoder":
            decoder = self._decoder("auto", config.precision, threads)
            return choose_runtime(choose_device("cpu"), "fp32", threads), ScorableDecoder(decoder)
        device = choose_device(config.device)
        network = Network(self.checkpoint.config.model, self.tokenizer.size)
        import_weights(network, self.checkpoint.weights)
        trial = StepTrial(self.checkpoint.config, network.to_device(device))
        return choose_runtime(device, config.precision, threads, trial), network.eval()

    @cached_property
    def _reader(self) -> Scorable:
        """The model as it scores: a network on a processor with as many threads as are fastest at the moment."""
        from charlm.evaluation.threaded import Threaded
        from charlm.models.network import Network

        runtime, model = self._scorer
        return Threaded(model, self._up_to(runtime)) if isinstance(model, Network) else model

    def _up_to(self, runtime: Runtime) -> int:
        """How many threads may compute while that is fastest; 1 where their number does not change."""
        return runtime.threads if runtime.device.type == "cpu" and not self._config.threads else 1


def check_dynamic(config: EvalConfig, what: str = "--dynamic needs") -> None:
    """Raise ConfigError for a model loaded with the decoder, which cannot learn and has no gradients."""
    if config.engine == "decoder":
        raise ConfigError(
            f"{what} --engine network: the decoder cannot be trained",
            kept="nothing was scored",
            hint="leave out --engine decoder, or --precision int8",
        )


def _network(model: ModelConfig, tokenizer: str, vocabulary: int) -> list[str]:
    """
    >>> _network(ModelConfig(hidden=256), "char", 65)
    ['2 x 256 lstm', '65 characters']
    """
    return [f"{model.layers} x {model.hidden} {model.kind}", f"{vocabulary:,} {_UNITS.get(tokenizer, 'tokens')}"]
