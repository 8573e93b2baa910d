"""Modules of JavaScript as one script, and a page around it that admits nothing else.

The modules of this folder import from each other by `import {names} from './file.js';` and export functions, classes
and constants where they declare them. That is all that `bundle` knows of the language: each module becomes a function
of its own scope, in an order in which none is needed before it is there. Tests run the modules themselves in Node.js.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Final

from charlm.report.levels import DARK, DIVERGING_DARK, DIVERGING_LIGHT, LIGHT

_IMPORT: Final = re.compile(r"^import (\{[^}]*\}) from '\./(\w+)\.js';\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)
_COMMENT: Final = re.compile(r"^ *//.*\n", re.MULTILINE)
Colours = Sequence[tuple[str, str]]
_POLICY: Final = (
    "default-src 'none'; script-src {}; style-src {}; connect-src 'none'; base-uri 'none'; form-action 'none'"
)


def bundle(main: str) -> str:
    """The module of this name and all that it imports, as one script without comments that fill a line."""
    modules: dict[str, str] = {}
    _add(main, modules)
    parts = "".join(f"const _{name} = (() => {{\n{code}}})();\n" for name, code in modules.items())
    return f"'use strict';\n(() => {{\n{parts}}})();\n"


def _add(name: str, modules: dict[str, str]) -> None:
    if name in modules:
        return
    source = part(f"{name}.js")
    for _, needed in _IMPORT.findall(source):
        _add(needed, modules)
    exported = _EXPORT.findall(source)
    code = _COMMENT.sub("", _EXPORT.sub("", _IMPORT.sub(r"const \1 = _\2;\n", source)))
    modules[name] = code + (f"return {{{', '.join(exported)}}};\n" if exported else "")


def part(name: str) -> str:
    """A part of the page that stands beside this module."""
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def framed(*, title: str, body: str, script: str, data: object, weights: bytes = b"", wasm: bool = False) -> str:
    """The page: a title, the markup of its body, its script, and what that reads.

    The content security policy admits script and style by their hashes; `wasm` lets the script compile WebAssembly.
    """
    style = part("page.css").replace("/*levels*/", _palettes())
    sources = f"'{digest(script)}'" + " 'wasm-unsafe-eval'" * wasm
    return Template(part("page.html")).substitute(
        policy=_POLICY.format(sources, f"'{digest(style)}'"),
        title=escape(title),
        style=style,
        body=body,
        data=safe_json(data),
        weights=f'<script type="text/plain" id="weights">{base64.b64encode(weights).decode()}</script>\n'
        * bool(weights),
        script=script,
    )


def digest(content: str) -> str:
    """A hash as a content security policy has it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _palettes() -> str:
    def rules(palette: Colours, diverging: Colours) -> str:
        page = f":root{{--page:{palette[0][0]};--ink:{palette[0][1]}}}"
        named = [(f"{kind}{n}", own) for kind, all_ in (("c", palette), ("d", diverging)) for n, own in enumerate(all_)]
        return page + "".join(f".{name}{{background:{back};color:{ink}}}" for name, (back, ink) in named)

    dark = rules(DARK, DIVERGING_DARK)
    return f"{rules(LIGHT, DIVERGING_LIGHT)}@media(prefers-color-scheme:dark){{{dark}}}"


def safe_json(value: object) -> str:
    """JSON in which nothing looks like markup, in ASCII.

    >>> safe_json(["</script>"])
    '["\\\\u003c/script\\\\u003e"]'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
