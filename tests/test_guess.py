"""The encoding that an error names reads exactly the text that was written, or none is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.text.guess import legacy_encoding

WESTERN: Final = ("cp1252", "iso8859-1", "iso8859-15", "mac_roman", "cp850", "cp437")
CENTRAL: Final = ("cp1250", "iso8859-2", "cp852")
CYRILLIC: Final = ("cp1251", "koi8-r", "iso8859-5", "cp866", "mac_cyrillic")
# ruff: noqa: E501
# Mostly the first article of the Universal Declaration of Human Rights, and the encodings that people have used for it.
TEXTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "German": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
        "sollen einander im Geiste der Brüderlichkeit begegnen. Das größte Übel ist die Straße, die später häßlich wird.",
        WESTERN,
    ),
    "French": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
        "conscience et doivent agir les uns envers les autres dans un esprit de fraternité, où le garçon rêvait à Noël.",
        WESTERN,
    ),
    "Spanish": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
        "conciencia, deben comportarse fraternalmente. ¿Qué hará el niño mañana? ¡Nada más!",
        WESTERN,
    ),
    "Swedish": (
        "Alla människor är födda fria och lika i värde och rättigheter. De är utrustade med förnuft och samvete och bör "
        "handla gentemot varandra i en anda av broderskap. På ön börjar våren.",
        WESTERN,
    ),
    "Polish": (
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem i "
        "sumieniem i powinni postępować wobec innych w duchu braterstwa. Zażółć gęślą jaźń.",
        CENTRAL,
    ),
    "Czech": (
        "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím a mají "
        "spolu jednat v duchu bratrství. Příliš žluťoučký kůň úpěl ďábelské ódy.",
        CENTRAL,
    ),
    "Hungarian": (
        "Minden emberi lény szabadon születik és egyenlő méltósága és joga van. Az emberek, ésszel és lelkiismerettel "
        "bírván, egymással szemben testvéri szellemben kell hogy viseltessenek. Árvíztűrő tükörfúrógép.",
        CENTRAL,
    ),
    "Turkish": (
        "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine "
        "karşı kardeşlik zihniyeti ile hareket etmelidirler. İstanbul'da güzel bir çocuk.",
        ("cp1254", "iso8859-9", "cp857"),
    ),
    "Russian": (
        "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны "
        "поступать в отношении друг друга в духе братства.",
        CYRILLIC,
    ),
    "Ukrainian": (
        "Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю і повинні "
        "діяти у відношенні один до одного в дусі братерства.",
        ("cp1251", "koi8-u"),
    ),
    "Greek": (
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με "
        "λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
        ("cp1253", "iso8859-7"),
    ),
    "Hebrew": ("כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.", ("cp1255",)),
    "Arabic": ("يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا.", ("cp1256", "iso8859-6")),
    "Japanese": (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられている。",
        ("shift_jis", "euc_jp"),
    ),
    "Korean": (
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았다.",
        ("euc_kr",),
    ),
    "Chinese": (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
        ("gb2312", "gb18030"),
    ),
    "Taiwanese": ("人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。", ("big5",)),
}
CASES: Final = [(language, encoding) for language, (_, encodings) in TEXTS.items() for encoding in encodings]
# Where the whole text is not enough to be certain, or the encoding is not among those that are tried.
UNDECIDED: Final = {("Turkish", "cp857"), ("Hebrew", "cp1255"), ("Arabic", "iso8859-6")}


def written(language: str, encoding: str) -> bytes:
    return TEXTS[language][0].encode(encoding)


def parts(raw: bytes, encoding: str) -> Iterator[bytes]:
    """Beginnings and ends of a text in this encoding, word by word or character by character."""
    text = raw.decode(encoding)
    pieces = text.split(" ") if text.count(" ") > 5 else list(text)
    for place in range(4, len(pieces), 6):
        gap = " " if text.count(" ") > 5 else ""
        yield from (gap.join(pieces[:place]).encode(encoding), gap.join(pieces[place:]).encode(encoding))


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_the_encoding_of_a_paragraph_is_known_or_none_is_named(language: str, encoding: str) -> None:
    raw = written(language, encoding)
    found = legacy_encoding(raw)
    assert bool(found) == ((language, encoding) not in UNDECIDED)
    assert not found or raw.decode(found) == TEXTS[language][0]


@pytest.mark.parametrize(("language", "encoding"), CASES)
def test_no_part_of_a_text_is_taken_for_another(language: str, encoding: str) -> None:
    for part in parts(written(language, encoding), encoding):
        found = legacy_encoding(part)
        assert not found or part.decode(found) == part.decode(encoding)


@pytest.mark.parametrize(
    "text",
    [
        "He said “don’t” — it costs €5…\n" * 3,
        "‘I can’t,’ she wrote, ‘not today’ – and that was all she wrote.\n" * 3,
    ],
)
def test_english_with_typographic_marks_alone_is_known(text: str) -> None:
    assert legacy_encoding(text.encode("cp1252")) == "cp1252"


@pytest.mark.parametrize("raw", [b"caf\xe9", b"\xff" * 100, bytes(range(128, 256)), b"\x93" * 50, b"plain", b""])
def test_too_little_or_no_language_is_no_ground_for_a_guess(raw: bytes) -> None:
    assert legacy_encoding(raw) == ""


@given(st.binary(max_size=200))
def test_what_is_named_can_decode_all_bytes(raw: bytes) -> None:
    found = legacy_encoding(raw)
    assert not found or raw.decode(found)


def test_a_byte_that_the_encoding_lacks_far_behind_rules_it_out() -> None:
    german = written("German", "cp1252") + b"\n"
    long = german + b"plain ASCII\n" * 20_000
    assert legacy_encoding(long) == "cp1252"
    assert legacy_encoding(long + b"\x81\x8d") == ""
