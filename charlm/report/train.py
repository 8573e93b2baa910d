"""What a finished run's numbers mean, in words: the closing figures and the score; `verdict` says how training went."""

from __future__ import annotations

import math

from charlm.evaluation.score import perplexity
from charlm.evaluation.temperature import TRIED
from charlm.report.verdict import Verdict
from charlm.report.words import bits, duration, figure
from charlm.storage.records import Result
from charlm.storage.runs import Trained


def closing_facts(result: Result) -> list[tuple[str, str]]:
    """The closing figures, each with its name."""
    planned = f" ({result.planned_steps:,} planned)" if result.planned_steps else ""
    trained = f"{result.steps:,} steps{planned}, {result.characters_seen:,} characters, {duration(result.seconds)}"
    trained += f", and {duration(result.closing_seconds)} for the closing scores" if result.closing_seconds else ""
    tested = [] if result.test_loss is None else [("test loss", _loss(result.test_loss))]
    validation = "none (no validation text)" if result.val_loss is None else _loss(result.val_loss)
    return [
        *tested,
        ("validation loss", validation),
        ("training loss", f"{result.train_loss:.4f} nats per character"),
        ("trained", trained),
    ]


def _loss(nats: float) -> str:
    return f"{nats:.4f} nats, {bits(nats):.4f} bits per character, perplexity {figure(perplexity(nats, 1), 3)}"


def summarise(trained: Trained, verdict: Verdict) -> list[str]:
    """What the figures mean, how training went and what to try next, in paragraphs.

    `best` is the model with the lowest validation loss, so only a test text is one that no choice has seen.
    """
    result = trained.result
    memorisation = _memorisation(result) if result.val_loss is None else []
    course = [*memorisation, *_temperature(result), *verdict.lines]
    if result.test_loss is not None:
        return [_meaning(trained, "its test text, which no choice has seen", result.test_loss), *course]
    if result.val_loss is not None:
        return [_meaning(trained, "its validation text", result.val_loss), *course]
    return course


def _meaning(trained: Trained, text: str, loss: float) -> str:
    bits_needed = bits(loss)
    needs = f"On {text}, the model needs {bits_needed:.2f} bits per character"
    choices = figure(perplexity(loss, 1), 1)
    if trained.config.data.tokenizer != "char":
        return f"{needs}: it is as uncertain as a choice among {choices} characters."
    uniform = math.log2(trained.vocabulary)
    if bits_needed > uniform:
        return (
            f"{needs}, more than a uniform guess ({uniform:.2f} bits for {trained.vocabulary} characters): it has "
            "not learned enough yet, or that text is very short or full of characters not in the vocabulary."
        )
    return (
        f"{needs}: it is as uncertain as a choice among {choices} equally likely characters; a uniform guess is one "
        f"among {trained.vocabulary:,} ({uniform:.2f} bits)."
    )


def _memorisation(result: Result) -> list[str]:
    """Without a validation text: the best model is the last one, and how training went is not known."""
    if result.test_loss is not None:
        return ["There is no validation text to choose the best model by: it is the last. --val 0.1 holds one out."]
    return [
        f"There is no validation text, so only the loss on the training text is known: {result.train_loss:.4f} nats "
        f"({bits(result.train_loss):.3f} bits) per character.",
        "This measures memorisation, not generalisation; --val 0.1 holds out a validation text.",
    ]


def _temperature(result: Result) -> list[str]:
    """Why the command that samples has the temperature that it has."""
    if result.temperature is None:
        return []
    return [
        f"Of the temperatures tried, from {TRIED[0]:g} to {TRIED[-1]:g}, {result.temperature:g} writes the text that "
        "is nearest to the validation text in how much it has in common with the training text."
    ]
