"""Zulip's keys: every form its gateway prints, options in any order, and what is nearly one.

Promises: tokens are made up here, of the right form.
Never: asks a Zulip.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from gatepost.keys import formats, zulip
from gatepost.keys.formats import Reading

HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
REPLY = f"mm{HEX}"

# id, text, options
CHANNELS = [
    ("name and token", f"garden.{HEX}", ()),
    ("name and token, plus", f"garden+{HEX}", ()),
    ("a name that could not be spelled", f"channel.{HEX}", ()),
    ("no name", HEX, ()),
    ("a name with dashes", f"garden-tools-2.{HEX}", ()),
    ("a name with an underscore", f"garden_tools.{HEX}", ()),
    ("a name with a space, before 2.0", f"garden%0032tools+{HEX}", ()),
    ("a name like a token", f"{HEX}.{HEX}", ()),
    ("a name like a reply", f"{REPLY}.{HEX}", ()),
    ("an option", f"garden.{HEX}.show-sender", ("show-sender",)),
    ("an option, plus", f"garden+{HEX}+show-sender", ("show-sender",)),
    ("dot and plus mixed", f"garden+{HEX}.show-sender+include-quotes", ("show-sender", "include-quotes")),
    ("an option without a name", f"{HEX}.include-footer", ("include-footer",)),
    ("an option in front", f"prefer-html.garden.{HEX}", ("prefer-html",)),
    ("an option between", f"garden.include-quotes.{HEX}", ("include-quotes",)),
    ("a channel called as an option is", f"show-sender.{HEX}", ("show-sender",)),
    ("doubled", f"garden.{HEX}.show-sender.show-sender", ("show-sender",)),
    ("prefer-text", f"garden.{HEX}.prefer-text", ("prefer-text",)),
    ("the last preference counts", f"garden.{HEX}.prefer-text.prefer-html", ("prefer-html",)),
    ("the last preference counts, three", f"garden.{HEX}.prefer-text.prefer-html.prefer-text", ("prefer-text",)),
    (
        "all but one preference",
        f"garden.{HEX}.prefer-html.include-quotes.include-footer.show-sender",
        ("show-sender", "include-footer", "include-quotes", "prefer-html"),
    ),
]

# id, text
REFUSED = [
    ("empty", ""),
    ("a word", "support"),
    ("a name alone", "garden"),
    *[(f"{option} alone", option) for option in zulip.OPTIONS],
    ("all options alone", ".".join(zulip.OPTIONS)),
    ("a name and an option", "garden.show-sender"),
    ("token short", f"garden.{HEX[:-1]}"),
    ("token long", f"garden.{HEX}0"),
    ("token not hex", f"garden.{HEX[:-1]}g"),
    ("token in capitals", f"garden.{HEX.upper()}"),
    ("token in another script", "garden." + 32 * "\u0661"),
    ("token in front of the name", f"{HEX}.garden"),
    ("an unknown option", f"garden.{HEX}.show-recipient"),
    ("an option in capitals", f"garden.{HEX}.Show-Sender"),
    ("an option misspelled", f"garden.{HEX}.show_sender"),
    ("an option joined by a dash", f"garden.{HEX}-show-sender"),
    ("two names", f"garden.tools.{HEX}"),
    ("an empty name", f".{HEX}"),
    ("an empty name, plus", f"+{HEX}"),
    ("nothing between", f"garden..{HEX}"),
    ("a dot at the end", f"garden.{HEX}."),
    ("delimiters only", "...."),
    ("a dash for the delimiter", f"garden-{HEX}"),
    ("a slash in the name", f"garden/tools.{HEX}"),
    ("Unicode in the name", f"jard\u00edn.{HEX}"),
    ("a letter that folds to k", f"\u212a.{HEX}"),
    ("white space in the name", f"garden tools.{HEX}"),
    ("white space behind", f"garden.{HEX} "),
    ("a line end", f"garden.{HEX}\n"),
    ("NUL", f"gar\0den.{HEX}"),
    ("mm alone", "mm"),
    ("reply short", REPLY[:-1]),
    ("reply long", f"{REPLY}0"),
    ("reply not hex", f"{REPLY[:-1]}g"),
    ("reply in capitals", REPLY.upper()),
    ("reply with an option", f"{REPLY}.show-sender"),
    ("reply with a name", f"garden.{REPLY}"),
    ("255 characters", f"{'g' * (255 - 33)}.{HEX}"),
    ("300 characters", 300 * "a"),
    ("300 delimiters", 300 * "."),
]


@pytest.mark.parametrize(("text", "options"), [row[1:] for row in CHANNELS], ids=[row[0] for row in CHANNELS])
def test_every_form_of_a_channel(text: str, options: tuple[str, ...]) -> None:
    """A channel's key names its token; its options are given each once, in one order."""
    assert zulip.read(text) == Reading(kind="channel", subject=HEX, options=options, raw=text)
    assert zulip.read(text, ("channel",)) is not None
    assert zulip.read(text, ("reply",)) is None


def test_a_reply_to_missed_messages() -> None:
    """`mm` and 32 hex digits are a reply, and nothing else is."""
    assert zulip.read(REPLY) == Reading(kind="reply", subject=REPLY, raw=REPLY)
    assert zulip.read(REPLY, ("reply",)) is not None
    assert zulip.read(REPLY, ("channel",)) is None
    assert zulip.read(REPLY, formats.FORMATS["zulip"]) == zulip.read(REPLY)


@pytest.mark.parametrize("text", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_nearly_a_key_is_none(text: str) -> None:
    """All that is no key has the one answer, whatever kinds are asked for."""
    assert zulip.read(text) is None
    assert zulip.read(text, ("channel",)) is None
    assert zulip.read(text, ("reply",)) is None


@pytest.mark.parametrize("delimiter", [".", "+"])
def test_options_in_any_order(delimiter: str) -> None:
    """The order in which options stand changes nothing, but for the two that exclude each other."""
    for order in permutations(("show-sender", "include-footer", "include-quotes", "prefer-text")):
        reading = zulip.read(delimiter.join(("garden", HEX, *order)))
        assert reading is not None
        assert reading.options == ("show-sender", "include-footer", "include-quotes", "prefer-text")
