"""The texts that models are compared on. They lie in data/; some are there by `charlm data get`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DATA: Final = Path("data")
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
