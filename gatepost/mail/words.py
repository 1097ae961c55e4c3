"""A field's bytes as text for people: encoded words decoded (RFC 2047), raw octets made readable.

Promises: text without control characters, line breaks and lone surrogates, so that it can stand in a log, in JSON and in a
database. Time is in proportion to the input; at most `WORDS` words in the first `DECODED_BYTES` octets are decoded.
Never: raises; looks a charset up that is not in `CODECS` (Python knows codecs that unpack, execute escapes or raise);
decodes for anything but display: an address or a key is never taken out of an encoded word.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["CODECS", "DECODED_BYTES", "WORDS", "charset_text", "displayable", "octets_text", "text"]

#: Octets of a value in which encoded words are decoded: as long as a field may be by `ParserLimits.field_bytes`.
DECODED_BYTES: Final = 102_400
#: Encoded words of one value that are decoded. A line holds two or three; real subjects have under twenty.
WORDS: Final = 1_000

#: Charset names (RFC 2978, lower case) and the codec that reads them. Supersets stand for what mail programs label too
#: narrowly: windows-1252 for iso-8859-1, gb18030 for gb2312, cp949 for ks_c_5601-1987. utf-7 is left out on purpose.
CODECS: Final[dict[str, str]] = {
    "us-ascii": "utf-8", "ascii": "utf-8", "utf-8": "utf-8", "utf8": "utf-8",
    "iso-8859-1": "cp1252", "latin1": "cp1252", "iso-8859-2": "iso8859-2", "iso-8859-3": "iso8859-3",
    "iso-8859-4": "iso8859-4", "iso-8859-5": "iso8859-5", "iso-8859-6": "iso8859-6", "iso-8859-7": "iso8859-7",
    "iso-8859-8": "iso8859-8", "iso-8859-8-i": "iso8859-8", "iso-8859-9": "cp1254", "iso-8859-10": "iso8859-10",
    "iso-8859-11": "cp874", "iso-8859-13": "iso8859-13", "iso-8859-14": "iso8859-14", "iso-8859-15": "iso8859-15",
    "iso-8859-16": "iso8859-16", "tis-620": "cp874",
    "windows-874": "cp874", "windows-1250": "cp1250", "windows-1251": "cp1251", "windows-1252": "cp1252",
    "windows-1253": "cp1253", "windows-1254": "cp1254", "windows-1255": "cp1255", "windows-1256": "cp1256",
    "windows-1257": "cp1257", "windows-1258": "cp1258", "cp1250": "cp1250", "cp1251": "cp1251", "cp1252": "cp1252",
    "koi8-r": "koi8-r", "koi8-u": "koi8-u", "ibm850": "cp850", "ibm866": "cp866", "cp866": "cp866",
    "macintosh": "mac-roman",
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "big5": "cp950", "big5-hkscs": "big5hkscs",
    "iso-2022-jp": "iso2022_jp", "shift_jis": "cp932", "shift-jis": "cp932", "euc-jp": "euc_jp",
    "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "iso-2022-kr": "iso2022_kr",
}  # fmt: skip

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
#: C0, DEL and C1 would act on a terminal or end a text; the rest would break a line.
_CONTROLS: Final[dict[int, str]] = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), _REPLACEMENT),
    **dict.fromkeys(map(ord, "\t\n\r\x0b\x0c\x85\u2028\u2029"), " "),
}


def text(value: bytes) -> str:
    """An unfolded value for display: encoded words decoded, and joined where only white space is between (RFC 2047 6.2)."""
    if b"=?" not in value:
        return displayable(octets_text(value))
    return displayable(_decode_words(value[:DECODED_BYTES]) + octets_text(value[DECODED_BYTES:]))


def displayable(shown: str) -> str:
    """`shown` with spaces for line breaks and U+FFFD for other control characters and lone surrogates."""
    if shown.isprintable():
        return shown
    shown = shown.translate(_CONTROLS)
    if shown.isascii():
        return shown
    try:
        shown.encode("utf-8")
    except UnicodeEncodeError:
        return "".join([_REPLACEMENT if "\ud800" <= char <= "\udfff" else char for char in shown])
    return shown


def octets_text(octets: bytes) -> str:
    """Octets of no declared charset: UTF-8 where they are that (RFC 6532), else windows-1252."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")


def charset_text(octets: bytes, charset: str) -> str | None:
    """Octets in a charset that a stranger named; None where `CODECS` does not have it. A language behind `*` is ignored."""
    codec = CODECS.get(charset.partition("*")[0].lower())
    return None if codec is None else octets.decode(codec, "replace")


def _decode_words(value: bytes) -> str:
    """Goes through the pieces between question marks: an encoded word is `=`, charset, encoding, text, `=` in a row."""
    pieces = value.split(b"?")
    plain = [pieces[0]]  # pieces since the last word, to be joined by ? again
    runs: list[tuple[str, list[bytes]]] = []  # (codec, octets), "" for what is no encoded word
    at = words = 0
    while at + 1 < len(pieces):
        word = _word(pieces, at) if words < WORDS and plain[-1].endswith(b"=") else None
        if word is None:
            at += 1
            plain.append(pieces[at])
            continue
        words += 1
        at += 4
        _add_plain(runs, b"?".join(plain)[:-1], between=True)
        codec, octets = word
        if runs and runs[-1][0] == codec:
            runs[-1][1].append(octets)  # programs split a character between two words
        else:
            runs.append((codec, [octets]))
        plain = [pieces[at][1:]]
    _add_plain(runs, b"?".join(plain), between=False)
    return "".join(
        [b"".join(octets).decode(codec, "replace") if codec else octets_text(b"".join(octets)) for codec, octets in runs]
    )


def _add_plain(runs: list[tuple[str, list[bytes]]], octets: bytes, *, between: bool) -> None:
    """White space between two encoded words is not shown (RFC 2047 6.2); what stands elsewhere is."""
    if octets and not (between and runs and not octets.strip()):
        runs.append(("", [octets]))


def _word(pieces: list[bytes], at: int) -> tuple[str, bytes] | None:
    """Codec and octets of the encoded word whose first `=` ends `pieces[at]`; None where it is none, or broken."""
    if at + 4 >= len(pieces) or len(pieces[at + 2]) != 1 or not pieces[at + 4].startswith(b"="):
        return None
    codec = CODECS.get(pieces[at + 1].partition(b"*")[0].lower().decode("latin-1"))
    encoding, encoded = pieces[at + 2], pieces[at + 3]
    if codec is None:
        return None
    if encoding in b"qQ":
        return codec, a2b_qp(encoded, header=True)
    if encoding in b"bB":
        try:
            return codec, a2b_base64(encoded, strict_mode=True)
        except Base64Error:
            return None
    return None
