"""The older encoding of a text that is not UTF-8, where it is certain, so that an error can name it.

A guess at an encoding is easily wrong: statistics of letters hardly tell `é` from `č`. Two judges have to agree here.
The first is the library charset-normalizer, which measures mess. The second is orthography: the letters beyond ASCII
belong to the alphabet of one language, none is a capital after a small letter, no quotation mark stands inside a word,
and so on. An encoding is certain if

1. there are at least `_ENOUGH` characters beyond ASCII;
2. charset-normalizer calls its text no messier than that of any other encoding, within `_MESS`;
3. at most `_FOREIGN` of those characters contradict the orthography of one language;
4. no encoding with another text passes 2 and 3, unless its letters are rarer in its language by `_RARER` (the library's
   coherence, from 0 to 1).
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Final, NamedTuple

from charlm.text.encoding import decodes

_ENOUGH: Final = 6
_MESS: Final = 0.1
_FOREIGN: Final = 0.01
_RARER: Final = 0.2
_SAMPLE: Final = 1 << 14  # bytes of lines that are not ASCII
_CYRILLIC: Final = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
_NOT_LATIN: Final = re.compile("[\u0370-\u06ff]")
# A final letter of Greek or Hebrew inside a word, or a sigma that is not final at its end.
_FINALS: Final = re.compile(r"[ςךםןףץ](?=[^\W\d_])|(?<=[^\W\d_])σ(?![^\W\d_])")
_THRICE: Final = re.compile(r"([^\0-\x7f])\1\1")
_ALONE: Final = frozenset("àáâåæèéêíîìóòöøőúý")  # Latin letters that are a word
# The letters beyond ASCII of each language.
_ALPHABETS: Final = tuple(
    map(
        frozenset,
        (
            "äöüß",  # German
            "àâæçéèêëîïôœùûüÿ",  # French
            "áéíñóúü",  # Spanish
            "àáâãçéêíóôõúü",  # Portuguese
            "àèéìíîòóùú",  # Italian
            "àçèéíïòóúü",  # Catalan
            "åäöé",  # Swedish, Finnish
            "æøåéó",  # Danish, Norwegian
            "áðéíóúýþæö",  # Icelandic
            "äöüõšž",  # Estonian
            "ąćęłńóśźż",  # Polish
            "áčďéěíňóřšťúůýž",  # Czech
            "áäčďéíĺľňóôŕšťúýž",  # Slovak
            "áéíóöőúüű",  # Hungarian
            "čćđšž",  # Croatian, Slovenian
            "ăâîșşțţ",  # Romanian
            "ąčęėįšųūž",  # Lithuanian
            "āčēģīķļņšūž",  # Latvian
            "çğıi̇öşüâîû",  # Turkish
            _CYRILLIC + "ё",  # Russian
            "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",  # Ukrainian
            "абвгдежзийклмнопрстуфхцчшщъьюя",  # Bulgarian
            "абвгдђежзијклљмнњопрстћуфхцчџш",  # Serbian
            "αβγδεζηθικλμνξοπρστυφχψωςάέήίόύώϊϋΐΰ",  # Greek
            "אבגדהוזחטיךכלםמןנסעףפץצקרשת",  # Hebrew
            "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوىيًٌٍَُِّْ،؛؟",  # Arabic
        ),
    )
)
_MARKS: Final = frozenset("‘’‚“”„«»‹›–—…•€£§©®°·¡¿ªº½¼¾²³×™№\xa0\xad")
_IN_WORDS: Final = "’‘·–—…\xad"  # of the marks, those that may stand between two letters
# The first of several that give the same text is named.
_SINGLE: Final = (
    *("cp1252", "iso8859_15", "cp1250", "iso8859_2", "cp1254", "cp1257", "cp1251", "koi8_r", "koi8_u", "iso8859_5"),
    *("cp866", "mac_cyrillic", "cp1253", "iso8859_7", "cp1255", "cp1256", "mac_roman", "cp850", "cp852"),
)
# Which characters text in an East Asian encoding consists of, and how often the second kind of them occurs at least.
_HAN: Final = "\u3000-\u303f\u4e00-\u9fff\uff00-\uffef‘’“”…—·"
_KANA: Final = "\u3040-\u30ff"
_HANGUL: Final = "\uac00-\ud7a3"
_COMMON: Final = "的一是不了人我在有他这这之大来个中上這來個以"
_EAST: Final = {
    "cp932": (_HAN + _KANA, _KANA, 0.1),
    "euc_jp": (_HAN + _KANA, _KANA, 0.1),
    "gb18030": (_HAN, _COMMON, 0.05),
    "big5": (_HAN, _COMMON, 0.05),
    "cp949": (_HAN + _HANGUL, _HANGUL, 0.9),
}


class _Candidate(NamedTuple):
    encoding: str
    text: str
    mess: float
    coherence: float


def legacy_encoding(raw: bytes) -> str:
    """The encoding of bytes that are not UTF-8, as Python calls it, where it is certain; otherwise nothing.

    >>> legacy_encoding("Где мой ключ? Пётр его не нашёл.".encode("koi8-r"))
    'koi8_r'
    >>> legacy_encoding(b"caf\\xe9")
    ''
    """
    sample = _beyond_ascii(raw)
    candidates = _candidates(sample)
    cleanest = min((one.mess for one in candidates), default=0.0)
    fitting = [one for one in candidates if one.mess <= cleanest + _MESS and _fits(one)]
    if not fitting:
        return ""
    best = max(fitting, key=lambda one: one.coherence)
    rivals = [one for one in fitting if one.text != best.text and one.coherence > best.coherence - _RARER]
    same = [one.encoding for one in fitting if one.text == best.text]
    name = min(same, key=_preference)
    return "" if rivals or not decodes(raw, name) else name


def _beyond_ascii(raw: bytes) -> bytes:
    """The first lines that are not ASCII: none of the encodings has a line end inside a character."""
    lines, size = [], 0
    for line in raw.split(b"\n"):
        if not line.isascii():
            lines.append(line[:_SAMPLE])
            size += len(lines[-1])
        if size >= _SAMPLE:
            break
    return b"\n".join(lines)


def _candidates(sample: bytes) -> list[_Candidate]:
    """The decodings that charset-normalizer finds, those with the same text apart."""
    from charset_normalizer import from_bytes

    known = [*_SINGLE, *_EAST]
    found = from_bytes(sample, cp_isolation=known, enable_fallback=False, preemptive_behaviour=False)
    return [
        _Candidate(name, sample.decode(name, "ignore"), match.chaos, match.coherence)
        for match in found
        for name in match.could_be_from_charset
        if name in known
    ]


def _preference(name: str) -> int:
    return [*_SINGLE, *_EAST].index(name)


def _fits(candidate: _Candidate) -> bool:
    """Whether this is how somebody would write a language."""
    text, beyond = candidate.text, re.findall(r"[^\0-\x7f]", candidate.text)
    if len(beyond) < _ENOUGH or re.search("[\x80-\x9f\0]", text) or len(re.findall(r"\w", text)) < len(beyond) / 2:
        return False
    if candidate.encoding in _EAST:
        return _is_east_asian(text, beyond, *_EAST[candidate.encoding])
    letters = Counter("".join(beyond).lower())
    for mark in _MARKS:
        letters.pop(mark, None)
    foreign = min(sum(n for letter, n in letters.items() if letter not in alphabet) for alphabet in _ALPHABETS)
    return foreign + _out_of_place(text) <= _FOREIGN * len(beyond)


def _is_east_asian(text: str, beyond: list[str], whole: str, part: str, share: float) -> bool:
    every = "".join(beyond)
    if len(every) < len(re.findall("[A-Za-z]", text)) / 2:
        return False
    spaced = _HANGUL not in whole or text.count(" ") >= len(every) / 20  # Korean has spaces between words
    foreign = len(re.findall(f"[^{whole}]", every)) > _FOREIGN * len(every)
    return spaced and not foreign and len(re.findall(f"[{part}]", every)) >= share * len(every)


def _out_of_place(text: str) -> int:
    """How many characters are where no language has them."""
    marks = "".join(sorted(_MARKS - set(_IN_WORDS)))
    inside = len(re.findall(rf"(?<=[^\W\d_])[{re.escape(marks)}](?=[^\W\d_])", text))
    mixed = sum(map(_odd_letters, re.findall(r"[^\W\d_]+", text)))
    other = len(_NOT_LATIN.findall(text))
    few = other if other < len(re.findall("[A-Za-z]", text)) / 2 else 0  # a text in Russian is not mostly in Latin
    return inside + mixed + few + len(_FINALS.findall(text))


def _odd_letters(word: str) -> int:
    """How many letters of a word beyond ASCII no language has there.

    A capital after a small letter, a letter three times in a row, letters of two scripts, one letter alone.
    """
    if word.isascii():
        return 0
    turned = sum(a.islower() and b.isupper() for a, b in pairwise(word))
    other = len(_NOT_LATIN.findall(word))
    alone = len(word) == 1 and not other and word.lower() not in _ALONE
    return turned + len(_THRICE.findall(word)) + (0 < other < len(word)) + alone
