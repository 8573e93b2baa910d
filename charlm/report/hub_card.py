"""The model card that `charlm push` writes: README.md of a repository, with the front matter that the Hub reads."""

from __future__ import annotations

from charlm.evaluation.score import perplexity
from charlm.report.words import bits, figure
from charlm.storage.checkpoint import Checkpoint

_HEAD = """\
---
library_name: charlm
pipeline_tag: text-generation
tags:
- character-level
- {cell}
- safetensors
---

# {title}

A character-level language model, trained with charlm: {network}.
"""
_USE = """
## Use

```sh
pip install 'charlm-cli[hub]'
charlm sample hf:{name}
charlm eval hf:{name} --text FILE
```

```python
import charlm

print(charlm.load("hf:{name}").sample(length=200))
```

The model is one safetensors file; nothing in it is executed.
"""


def card(checkpoint: Checkpoint, repository: str = "OWNER/NAME") -> str:
    """The card of a model in Markdown: what it is, what it was trained on, how good it is, how to use it.

    No file of the training text is named.
    """
    model = checkpoint.config.model
    network = f"{model.layers} x {model.hidden} {model.cell}, {checkpoint.parameters:,} parameters"
    head = _HEAD.format(cell=model.cell, title=repository, network=network)
    rows = "".join(f"| {name} | {value} |\n" for name, value in _figures(checkpoint))
    return f"{head}\n| | |\n| --- | --- |\n{rows}{_USE.format(name=repository)}"


def _figures(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Sizes and losses, each with its name."""
    corpus, result, tokenizer = checkpoint.corpus, checkpoint.result, checkpoint.open_tokenizer()
    rows = [
        ("training text", f"{corpus.train_characters:,} characters"),
        ("validation text", f"{corpus.val_characters:,} characters"),
        ("vocabulary", f"{tokenizer.size:,} ({tokenizer.kind})"),
        ("steps", f"{checkpoint.training.step:,}"),
    ]
    losses = {"validation loss": result.val_loss, "test loss": result.test_loss} if result else {}
    return rows + [(name, _loss(nats)) for name, nats in losses.items() if nats is not None]


def _loss(nats: float) -> str:
    return f"{nats:.4f} nats, {bits(nats):.4f} bits per character, perplexity {figure(perplexity(nats, 1), 3)}"
