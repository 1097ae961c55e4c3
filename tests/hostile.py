"""Messages made to be slow, deep or large: what the parser's tests and the benchmark both use.

Promises: each entry of `HOSTILE` makes a message of pipe(8)'s form (LF line ends) in proportion to its scale; 1 is about what a
default Postfix lets pass without a word, 10 is ten times that. The largest has 10 MB.
Never: random, or another project's test message.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HOSTILE"]

#: A head around the hostile part, so that the rest of the message is read as well.
_HEAD = b"From: Ann <ann@example.org>\nTo: reply+k@in.example.com\nSubject: hello\n"


def _field(name: bytes, value: bytes) -> bytes:
    return _HEAD + name + b": " + value + b"\n\nbody\n"


def _repeated(name: bytes, unit: bytes, octets: int) -> Callable[[int], bytes]:
    """A field whose value is `unit` over and over, `octets` long at scale 1."""
    return lambda scale: _field(name, unit * (scale * octets // len(unit)))


def _folded(name: bytes, unit: bytes, octets: int) -> Callable[[int], bytes]:
    """The same in many fields of 90,000 octets, each below `field_bytes`."""

    def message(scale: int) -> bytes:
        one = name + b": " + unit * (90_000 // len(unit)) + b"\n"
        return _HEAD + one * max(scale * octets // len(one), 1) + b"\nbody\n"

    return message


def _many_parts(scale: int) -> bytes:
    head = _HEAD + b'Content-Type: multipart/mixed; boundary="b"\n\n'
    return head + b"--b\nContent-Type: text/plain\n\nx\n" * (10_000 * scale) + b"--b--\n"


def _nested_multiparts(scale: int) -> bytes:
    parts = [b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (depth, depth) for depth in range(1_000 * scale)]
    return _HEAD + b"".join(parts)


def _nested_messages(scale: int) -> bytes:
    return _HEAD + b"Content-Type: message/rfc822\n\n" * (1_000 * scale)


_LINE = 100_000

#: name -> message of a scale
HOSTILE: dict[str, Callable[[int], bytes]] = {
    # Content-Type
    "content-type-semicolons": _repeated(b"Content-Type", b";", _LINE),
    "content-type-spaced-semicolons": _repeated(b"Content-Type", b"; ", _LINE),
    "content-type-parameters": lambda scale: _field(
        b"Content-Type", b"text/plain" + b"".join([b"; a%d=b" % count for count in range(11_000 * scale)])
    ),
    "content-type-quotes": _repeated(b"Content-Type", b'text/plain; a="', _LINE),
    "content-type-comments": _repeated(b"Content-Type", b"(a) ", _LINE),
    "content-type-slashes": _repeated(b"Content-Type", b"/", _LINE),
    "content-type-percent": lambda scale: _field(
        b"Content-Type", b"multipart/report; report-type*=utf-8''" + b"%" * (_LINE * scale)
    ),
    # address fields
    "to-commas": _repeated(b"To", b",", _LINE),
    "to-parens": _repeated(b"To", b"(", _LINE),
    "to-closing-parens": _repeated(b"To", b")", _LINE),
    "to-angles": _repeated(b"To", b"<", _LINE),
    "to-closing-angles": _repeated(b"To", b">", _LINE),
    "to-quotes": _repeated(b"To", b'"\\', _LINE),
    "to-escaped-quotes": lambda scale: _field(b"To", b'"' + b'\\"' * (_LINE * scale // 2)),
    "to-nested-comments": lambda scale: _field(
        b"To", b"(" * (_LINE * scale // 2) + b")" * (_LINE * scale // 2) + b" a@example.org"
    ),
    "to-groups": _repeated(b"To", b":", _LINE),
    "to-group-ends": _repeated(b"To", b";", _LINE),
    "to-signs": _repeated(b"To", b"@", _LINE),
    "to-route": lambda scale: _field(b"To", b"<" + b"@a," * (_LINE * scale // 3)),
    "to-literals": _repeated(b"To", b"[", _LINE),
    "to-words": _repeated(b"To", b"a ", _LINE),
    "to-words-commas": _repeated(b"To", b"a,", _LINE),
    "to-dots": _repeated(b"To", b". ", _LINE),
    "to-addresses": _repeated(b"To", b"a@example.org, ", _LINE),
    "to-adjacent-addresses": _repeated(b"To", b"a@b ", _LINE),
    "to-encoded-names": _repeated(b"To", b"=?utf-8?q?a?= <a@b>,", _LINE),
    "to-8-bit": _repeated(b"To", b"\xff\xc3(", _LINE),
    "from-many-fields": _folded(b"From", b"a b,", _LINE),
    "cc-many-fields": _folded(b"Cc", b'"a"', _LINE),
    # text
    "subject-encoded-words": _repeated(b"Subject", b"=?utf-8?q?a?= ", 280_000),
    "subject-word-starts": _repeated(b"Subject", b"=?", 200_000),
    "subject-half-words": _repeated(b"Subject", b"=?utf-8?q?", _LINE),
    "subject-one-word": lambda scale: _field(b"Subject", b"=?utf-8?b?" + b"QUJD" * (25_000 * scale) + b"?="),
    "subject-quoted-printable": lambda scale: _field(b"Subject", b"=?utf-8?q?" + b"=C3=A9" * (16_000 * scale) + b"?="),
    "subject-broken-quoted-printable": lambda scale: _field(b"Subject", b"=?utf-8?q?" + b"=" * _LINE * scale + b"?="),
    "subject-charsets": _repeated(b"Subject", b"=?idna?q?xn--a?= =?punycode?b?QQ==?= =?unicode_escape?q?=5Cud800?= ", _LINE),
    "subject-shifts": lambda scale: _field(b"Subject", b"=?iso-2022-jp?q?" + b"\x1b$B" * (33_000 * scale) + b"?="),
    "subject-nul": _repeated(b"Subject", b"\0", _LINE),
    "subject-8-bit": _repeated(b"Subject", b"\xed\xa0\x80", _LINE),
    # Message-IDs
    "message-id-angles": _repeated(b"Message-ID", b"<", _LINE),
    "references": _repeated(b"References", b"<a@b> ", _LINE),
    "references-closing": _repeated(b"References", b">", _LINE),
    "references-bare": _repeated(b"References", b"a@b ", _LINE),
    "references-many-fields": lambda scale: _HEAD + b"References: <a@b>\n" * (5_000 * scale) + b"\nbody\n",
    # Received
    "received-words": _repeated(b"Received", b"by a ", _LINE),
    "received-comments": _repeated(b"Received", b"(a)", _LINE),
    "received-parens": _repeated(b"Received", b"(", _LINE),
    "received-one-word": _repeated(b"Received", b'"a"', _LINE),
    "received-many-fields": lambda scale: b"Received: by mx.example.com\n" * (5_000 * scale) + _HEAD + b"\nbody\n",
    "authentication-results": _repeated(b"Authentication-Results", b"(a) ", _LINE),
    # the head as a whole
    "headers": lambda scale: b"a:b\n" * (100_000 * scale) + b"\nbody\n",
    "headers-without-end": lambda scale: b"a:b\n" * (100_000 * scale),
    "lines-without-colon": lambda scale: b"a\n" * (100_000 * scale) + b"\nbody\n",
    "colons": lambda scale: b":\n" * (100_000 * scale) + b"\nbody\n",
    "folds": lambda scale: b"Subject: a\n" + b" \n" * (100_000 * scale) + b"\nbody\n",
    "one-name": lambda scale: b"a" * (1_000_000 * scale),
    "one-line": lambda scale: b"Subject: " + b"a" * (1_000_000 * scale) + b"\n\nbody\n",
    "nul-head": lambda scale: b"\0" * (1_000_000 * scale) + b"\n\nbody\n",
    # the body
    "parts": _many_parts,
    "nested-multiparts": _nested_multiparts,
    "nested-messages": _nested_messages,
    "body-lines": lambda scale: _HEAD + b"\n" + b"a\n" * (500_000 * scale),
    # line ends
    "cr": lambda scale: b"\r" * (1_000_000 * scale),
    "cr-lf-at-end": lambda scale: b"\r" * (1_000_000 * scale) + b"\n",
    "lf": lambda scale: b"\n" * (1_000_000 * scale),
    "head-lf": lambda scale: b"Subject: a\n" + b"\n" * (1_000_000 * scale),
    "cr-cr-lf": lambda scale: _HEAD + b"\n" + b"\r\r\n" * (333_333 * scale),
    "cr-runs": lambda scale: _HEAD + b"\n" + (b"\r" * 999 + b"a" + b"\r" * 1_000 + b"\n") * (500 * scale),
    "cr-lf-cr": lambda scale: _HEAD + b"\n" + b"\r\n\r" * (333_333 * scale),
}
