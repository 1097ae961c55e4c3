"""The configuration file: what it may say, and every mistake told at its line and column."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gatepost.config import load, load_with_warnings
from gatepost.errors import ConfigError
from gatepost.settings import (
    USUAL_LIMITS,
    Ask,
    LmtpSettings,
    MilterSettings,
    ParkedLimits,
    ParserLimits,
    Screening,
    Settings,
    Timing,
)

#: Fifteen lines without a mistake; a row of the tables below changes one piece of it.
GOOD = """\
trusted: [mx.example.com]
routes:
  - name: replies
    address: "reply+%{key}@in.example.com"
    keys: {format: signed, secret: reply-keys}
    sender: {must-match: park}
    deliver: [app]
  - name: desk
    address: desk@in.example.com
    deliver: [app, box]
sinks:
  app: {webhook: "https://app.example.com/mail", secret: app-webhook}
  box: {maildir: /var/mail/desk}
timing: {deadline: 120s, lease: 180s}
screening: {automatic: discard}
"""
KEY = "a long enough secret for a key: 0123456789"
WEBHOOK = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5"
SECRETS = f"""\
reply-keys: ["{KEY}"]
app-webhook: ["{WEBHOOK}"]
"""
DOCS = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def write(folder: Path, text: str | bytes = GOOD, secrets: str | bytes | None = SECRETS) -> str:
    """Writes the two files as they should be; the configuration's path."""
    config = folder / "gatepost.yml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    config.chmod(0o644)
    if secrets is not None:
        beside = folder / "secrets.yml"
        beside.write_bytes(secrets if isinstance(secrets, bytes) else secrets.encode())
        beside.chmod(0o600)
    return str(config)


def problems(path: str) -> list[str]:
    """Every problem as `NAME:LINE:COLUMN: text`, with the file's name alone."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.rule == "config-error"
    return [str(problem.replace(file=os.path.basename(problem.file))) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    """The good file with one piece of it replaced."""
    assert GOOD.count(old) == 1, f"{old!r} must stand once in the good file"
    return GOOD.replace(old, new)


def test_a_good_file_becomes_settings(tmp_path: Path) -> None:
    """Every value lands in the field it is meant for; what is not written has the settings' own default."""
    settings = load(write(tmp_path))
    assert settings.file == str(tmp_path / "gatepost.yml")
    assert settings.trusted == ("mx.example.com",)
    replies, desk = settings.routes
    assert (replies.name, replies.address, replies.must_match, replies.deliver) == (
        "replies", "reply+%{key}@in.example.com", "park", ("app",))  # fmt: skip
    assert replies.keys is not None
    assert (replies.keys.secret, replies.keys.key_id, replies.keys.secrets) == ("reply-keys", "reply-keys", (KEY.encode(),))
    assert (replies.keys.former_domains, replies.keys.revoked) == ((), "")
    assert (desk.keys, desk.must_match, desk.deliver) == (None, "", ("app", "box"))
    app, box = settings.sinks
    assert (app.kind, app.target) == ("webhook", "https://app.example.com/mail")
    assert app.secrets == (b"012345678901234567890123456789",)
    assert (app.format, app.confirm, app.ca_file) == ("json", False, "")
    assert (box.kind, box.target, box.secrets) == ("maildir", "/var/mail/desk", ())
    assert (app.at_once, box.at_once) == (10, 10)
    assert settings.timing == Timing()
    assert settings.parser == ParserLimits()
    assert settings.parked == ParkedLimits()
    assert (settings.store, settings.log, settings.after_queue) == ("/var/lib/gatepost", "syslog", "bounce-verified")
    assert settings.routes[0].screening == Screening()


EVERYTHING = """\
trusted: [MX.Example.COM., mx2.example.com]
routes:
  - name: r-1
    address: "reply+%s@in.example.com"
    keys:
      format: signed
      secret: reply-keys
      key_id: Replies.2020
      former_domains: [Old.Example.com, older.example.com]
      revoked: revoked.txt
    screening: {automatic: park, bounces: accept}
    sender: {must-match: flag}
    deliver: [app, raw, box]
screening: {automatic: reject, loops: park}
timing: {deadline: 0.5s, lease: 2m, give_up_after: 3h}
after_queue: park
parked: {max_age: 7d, max_size: 500MB, min_free: 2.5%}
parser:
  {header_bytes: 64KiB, header_fields: 200, field_bytes: 4096, addresses: 10, parameters: 11, references: 12, received: 13}
sinks:
  app: {webhook: "https://app.example.com:8443/mail?x=1", secret: app-webhook, format: json, confirm: "true", ca_file: ca.pem}
  raw: {webhook: "http://127.0.0.1:8000/", secret: app-webhook, format: raw, confirm: false, at_once: 3}
  box: {maildir: "/var/mail//desk/", at_once: 10000}
secrets: private/keys.yml
store: /srv/gatepost/
log: /var/log/gatepost.log
"""


def test_every_name_can_be_written(tmp_path: Path) -> None:
    """All names of this version in one file: each is read, typed and made absolute, none is a warning."""
    path = write(tmp_path, EVERYTHING, None)
    (tmp_path / "ca.pem").touch()
    (tmp_path / "private").mkdir()
    secrets = tmp_path / "private" / "keys.yml"
    secrets.write_text(f"reply-keys:\n  - {KEY.replace(': ', ' ')}\n  - '{KEY} newer'\napp-webhook: {WEBHOOK}\nunused: short\n")
    secrets.chmod(0o600)
    settings, warnings = load_with_warnings(path)
    assert warnings == ()
    (route,) = settings.routes
    keys = route.keys
    assert keys is not None
    assert settings.trusted == ("mx.example.com", "mx2.example.com")
    assert route.address == "reply+%{key}@in.example.com"
    assert (keys.key_id, keys.former_domains) == ("Replies.2020", ("old.example.com", "older.example.com"))
    assert keys.revoked == str(tmp_path / "revoked.txt")
    assert keys.secrets == (KEY.replace(": ", " ").encode(), f"{KEY} newer".encode())
    assert route.screening == Screening(automatic="park", loops="park", bounces="accept")
    assert route.must_match == "flag"
    assert settings.timing == Timing(deadline=0.5, lease=120.0, give_up_after=10_800.0)
    assert settings.after_queue == "park"
    assert settings.parked == ParkedLimits(max_age=604_800.0, max_bytes=500_000_000, min_free_percent=2.5)
    assert settings.parser == ParserLimits(
        header_bytes=65_536,
        header_fields=200,
        field_bytes=4096,
        addresses=10,
        parameters=11,
        references=12,
        received=13,
    )
    app, raw, box = settings.sinks
    assert (app.target, app.confirm, app.ca_file) == ("https://app.example.com:8443/mail?x=1", True, str(tmp_path / "ca.pem"))
    assert (raw.format, raw.confirm, raw.at_once) == ("raw", False, 3)
    assert (box.target, box.at_once) == ("/var/mail/desk", 10_000)
    assert (settings.store, settings.log) == ("/srv/gatepost", "/var/log/gatepost.log")


#: id, the piece of the good file that changes, what it becomes, and every problem that then follows (place and a fragment).
BROKEN: list[tuple[str, str, str, list[str]]] = [
    # names
    ("unknown top-level name", "screening:", "screning:",
     ['15:1: unknown setting "screning" in the configuration; did you mean "screening"?']),
    ("unknown name, nothing near", "screening:", "zzz:",
     ['15:1: unknown setting "zzz" in the configuration; known here: trusted, routes']),
    ("one level too high", "screening: {automatic: discard}", "give_up_after: 4d",
     ['15:1: "give_up_after" does not belong here: write it under timing:']),
    ("capitals", "screening:", "Screening:",
     ['15:1: unknown setting "Screening" in the configuration; did you mean "screening"?']),
    ("underscore for hyphen", "must-match", "must_match",
     ['6:14: unknown setting "must_match" in sender; did you mean "must-match"?']),
    ("misspelled required name is one problem", "address: desk", "adress: desk",
     ['9:5: unknown setting "adress" in this route; did you mean "address"?']),
    ("misspelled secret is one problem", "secret: reply-keys", "secert: reply-keys",
     ['5:28: unknown setting "secert" in keys; did you mean "secret"?']),
    ("misspelled webhook is one problem", "{webhook: ", "{webhok: ",
     ['12:9: unknown setting "webhok" in app; did you mean "webhook"?']),
    ("misspelled keys is one problem", "    keys:", "    key:",
     ['5:5: unknown setting "key" in this route; did you mean "keys"?']),
    ("doubled top-level name", "screening: {automatic: discard}", "trusted: []",
     ['15:1: "trusted" stands twice: the first is at 1:1']),
    ("doubled name in a route", "    sender: {must-match: park}", "    name: other",
     ['6:5: "name" stands twice: the first is at 3:5']),
    ("doubled name in braces", "lease: 180s", "deadline: 180s", ['14:26: "deadline" stands twice: the first is at 14:10']),
    ("doubled sink", "  box: {maildir", "  app: {maildir", ['10:20: deliver: there is no sink "box"',
     '13:3: "app" stands twice: the first is at 12:3']),
    ("no routes", GOOD[GOOD.index("routes:"):GOOD.index("sinks:")], "", ["1:1: the configuration: routes is missing"]),
    ("no sinks", GOOD[GOOD.index("sinks:"):GOOD.index("timing:")], "", ["1:1: the configuration: sinks is missing"]),
    ("route without a name", "  - name: desk\n    address", "  - address", ["8:5: this route: name is missing"]),
    ("route without deliver", "    deliver: [app, box]\n", "", ["8:5: this route: deliver is missing"]),
    ("keys without a format", "{format: signed, ", "{", ["5:11: keys: format is missing"]),
    ("keys without a secret", ", secret: reply-keys", "", ["5:11: keys: secret is missing"]),
    # types
    ("a text where a list must be", "[mx.example.com]", "mx.example.com",
     ["1:10: trusted: must be a list, such as [mx.example.com], is a text"]),
    ("deliver as a text", "deliver: [app]\n", "deliver: app\n", ["7:14: deliver: must be a list, such as [app], is a text"]),
    ("a list where names must be", "{automatic: discard}", "[automatic]",
     ["15:12: screening: must be names with values (name: value), is a list"]),
    ("a text where names must be", "{must-match: park}", "park",
     ["6:13: sender: must be names with values (name: value), is a text"]),
    ("names where a text must be", "name: desk", "name: {de: sk}", ["8:11: name: must be a text, is names with values"]),
    ("a list where a text must be", "discard}", "[discard]}", ["15:24: automatic: must be a text, is a list"]),
    ("no value", "maildir: /var/mail/desk", "maildir: ", ["13:17: maildir: has no value; it must be a text"]),
    ("an empty quoted text", "maildir: /var/mail/desk", 'maildir: ""', ["13:18: maildir: has no value"]),
    ("a section without a value", "timing: {deadline: 120s, lease: 180s}", "timing:",
     ["14:8: timing: has no value; it must be names with values"]),
    ("routes as names", GOOD[GOOD.index("  - name: replies"):GOOD.index("sinks:")], "  replies: {}\n",
     ["3:3: routes: must be a list, is names with values"]),
    ("no route in the list", GOOD[GOOD.index("  - name: replies"):GOOD.index("sinks:")], "  []\n",
     ["3:3: routes: is empty; it needs at least one"]),
    ("a route that is a text", "  - name: desk\n    address: desk@in.example.com\n    deliver: [app, box]\n", "  - desk\n",
     ["8:5: this route: must be names with values (name: value), is a text"]),
    ("no sink to deliver to", "deliver: [app]\n", "deliver: []\n", ["7:14: deliver: is empty; it needs at least one"]),
    ("no sink at all", GOOD[GOOD.index("  app: {web"):GOOD.index("timing:")], "  {}\n", ["7:15: deliver: there is no sink",
     "10:15: deliver: there is no sink", "10:20: deliver: there is no sink", "12:3: sinks: is empty; it needs at least one"]),
    ("a name that is a list", "screening: {automatic: discard}", "? [a]\n: b", ["15:3: a name must be a text"]),
    # values
    ("YAML 1.1 truth", "{automatic: discard}", "{automatic: on}",
     ['15:24: automatic: "on" is not one of accept, discard, reject, park']),
    ("near a choice", "{automatic: discard}", "{automatic: Discards}",
     ['automatic: "Discards" is not one of accept, discard, reject, park; did you mean "discard"?']),
    ("must-match of its own", "must-match: park", "must-match: discard",
     ['6:26: must-match: "discard" is not one of reject, park, flag']),
    ("after_queue", "screening: {automatic: discard}", "after_queue: bounce-verifed",
     ['15:14: after_queue: "bounce-verifed" is not one of bounce-verified, bounce, park', 'did you mean "bounce-verified"?']),
    ("duration without a unit", "deadline: 120s", "deadline: 120",
     ['14:20: deadline: "120" is no duration: write a number and s, m, h or d, such as 90s or 4d']),
    ("YAML 1.1 base sixty", "deadline: 120s", "deadline: 1:30", ['14:20: deadline: "1:30" is no duration']),
    ("duration of two parts", "deadline: 120s", "deadline: 1m30s", ['14:20: deadline: "1m30s" is no duration']),
    ("negative duration", "deadline: 120s", "deadline: -1s", ['14:20: deadline: "-1s" is no duration']),
    ("duration of nothing", "deadline: 120s", "deadline: 0s", ["14:20: deadline: must be more than 0"]),
    ("duration in other digits", "deadline: 120s", "deadline: ١٢٠s", ["14:20: deadline: ", "is no duration"]),
    ("deadline not below the lease", "deadline: 120s", "deadline: 3m",
     ["14:31: timing: deadline (180s) must be below lease (180s)"]),
    ("deadline not below the default lease", "{deadline: 120s, lease: 180s}", "{deadline: 200s}",
     ["14:20: timing: deadline (200s) must be below lease (180s)"]),
    ("lease not above the default deadline", "{deadline: 120s, lease: 180s}", "{lease: 60s}",
     ["14:17: timing: deadline (120s) must be below lease (60s)"]),
    ("size without sense", "screening: {automatic: discard}", "parked: {max_size: 1G}",
     ['15:20: max_size: "1G" is no size: write a whole number and B, kB, MB, GB, KiB, MiB or GiB']),
    ("share without %", "screening: {automatic: discard}", "parked: {min_free: 5}",
     ['15:20: min_free: "5" is no share: write 0% to 99.99%, such as 5%']),
    ("share of all", "screening: {automatic: discard}", "parked: {min_free: 100%}", ['15:20: min_free: "100%" is no share']),
    ("YAML 1.1 octal is a number as it stands", "screening: {automatic: discard}", "parser: {received: 0o17}",
     ['15:20: received: "0o17" is no whole number']),
    ("a limit out of range", "screening: {automatic: discard}", "parser: {header_fields: 2000000}",
     ["15:25: header_fields: 2000000 is out of range: 1 to 1,000,000"]),
    ("a limit of nothing", "screening: {automatic: discard}", "parser: {references: 0}",
     ["15:22: references: 0 is out of range"]),
    ("host name with a blank", "[mx.example.com]", "[mx example]", ['1:11: trusted: "mx example" is no host name']),
    ("host name beyond ASCII", "[mx.example.com]", "[mx.exämple.com]",
     ['1:11: trusted: "mx.exämple.com" is no host name in ASCII: write its xn-- form']),
    ("host by address", "[mx.example.com]", "[192.0.2.1]", ['1:11: trusted: "192.0.2.1" is no host name']),
    ("route name", "name: desk", "name: Desk!", ['8:11: name: "Desk!" is no name: 1 to 40 of a-z, 0-9 and -']),
    ("route name too long", "name: desk", f"name: {'d' * 41}", ["8:11: name: ", "is no name: 1 to 40"]),
    ("route name twice", "name: desk", "name: replies", ['8:11: name: "replies" stands twice: the first is at 3:11']),
    ("sink name", "  box: {maildir", "  Box: {maildir", ['10:20: deliver: there is no sink "box"',
     '13:3: a sink\'s name: "Box" is no name']),
    ("sink that is not there", "[app, box]", "[app, bx]", ['10:20: deliver: there is no sink "bx"; did you mean "box"?']),
    ("sink named twice", "[app, box]", "[app, app]", ['10:20: deliver: "app" stands twice: the first is at 10:15']),
    ("relative Maildir", "/var/mail/desk", "mail/desk", ['13:18: maildir: "mail/desk" is no absolute path: begin with /']),
    ("relative store", "screening: {automatic: discard}", "store: gatepost", ['15:8: store: "gatepost" is no absolute path']),
    ("store at the root", "screening: {automatic: discard}", "store: //..", ["15:8: store: / cannot be it"]),
    ("log to nowhere", "screening: {automatic: discard}", "log: syslogd",
     ['15:6: log: "syslogd" is neither syslog nor an absolute path; did you mean "syslog"?']),
    ("truth", "secret: app-webhook}", "secret: app-webhook, confirm: yes}",
     ['12:80: confirm: "yes" is neither true nor false']),
    ("format of a webhook", "secret: app-webhook}", "secret: app-webhook, format: xml}",
     ['12:79: format: "xml" is not one of json, raw']),
    ("ca_file that is a folder's name", "secret: app-webhook}", "secret: app-webhook, ca_file: certs/}",
     ['12:80: ca_file: "certs/" is no file']),
    # addresses
    ("address without a domain", "desk@in.example.com", "desk", ["9:14: address: no domain in"]),
    ("two placeholders", "reply+%{key}@", "reply+%{key}+%s@", ["4:14: address: two placeholders in"]),
    ("address of a person", "desk@in.example.com", "abuse@in.example.com", ["9:14: address: abuse@ is kept for a person"]),
    ("address that nobody can write to", "desk@in.example.com", '"de sk@in.example.com"', ["9:14: address: ",
     "is no address that mail can be sent to"]),
    ("placeholder without keys", "address: desk@", 'address: desk+%s@',
     ["9:14: address: has a place for a key, and the route has no keys: to check it"]),
    ("two routes, one address", "desk@in.example.com", "REPLY+x@in.example.com",
     ["9:14: address: the route at 4:14 could take the same address and key"]),
    ("must-match without keys", "    keys: {format: signed, secret: reply-keys}\n    sender", "    sender",
     ["4:14: address: has a place for a key", "5:13: sender: must-match needs keys"]),
    # other apps' keys
    ("gitlab unchecked", "format: signed, secret: reply-keys}\n    sender: {must-match: park}", "format: gitlab}",
     ["5:20: format: gitlab cannot tell a live key from a made-up one: name a URL under ask: where your app says it, or write"]),
    ("must-match on a list", "format: signed, secret: reply-keys", "format: list, file: keys",
     ["6:13: sender: must-match needs format: signed"]),
    ("another format's kind", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     "format: zulip, unchecked: true, kinds: [channel, note]}", ['5:61: kinds: "note" is no kind of zulip; it has channel, reply']),
    ("no kind at all", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     "format: zulip, unchecked: true, kinds: [a]}", ['5:52: kinds: "a" is not one of']),
    ("kinds of signed", "secret: reply-keys}", "secret: reply-keys, kinds: [reply]}",
     ["5:55: kinds: belongs to format: gitlab or zulip; this one is signed"]),
    ("pattern without one", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     "format: pattern, unchecked: true}", ["5:11: keys: pattern is missing: the expression"]),
    ("pattern that is none", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     'format: pattern, unchecked: true, pattern: "a("}', ["5:55: pattern: column 2: this ( has no )"]),
    ("list without a file", "format: signed, secret: reply-keys}\n    sender: {must-match: park}", "format: list}",
     ["5:11: keys: file is missing: the file with the keys"]),
    ("secret of a list", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     "format: list, file: keys, secret: reply-keys}", ["5:46: secret: belongs to format: signed; this one is list"]),
    ("format misspelled", "format: signed,", "format: sined,",
     ['5:20: format: "sined" is not one of signed, gitlab, zulip, pattern, list; did you mean "signed"?']),
    ("ask that is no URL", "secret: reply-keys}", "secret: reply-keys, ask: x}", ["5:53: ask: must be a URL that begins with https"]),
    ("ask in the clear", "secret: reply-keys}", 'secret: reply-keys, ask: "http://app.example.com/k"}',
     ["5:53: ask: ", "http is for this host only"]),
    ("ask that nothing signs", "secret: reply-keys}\n    sender: {must-match: park}\n    deliver: [app]",
     'secret: reply-keys, ask: "https://app.example.com/k"}\n    deliver: [box]',
     ["5:53: ask: no webhook of this route has a secret to sign the question with: name one under ask_secret:"]),
    ("ask_secret without ask", "secret: reply-keys}", "secret: reply-keys, ask_secret: app-webhook}",
     ["5:60: ask_secret: signs the question of ask:, and there is no ask:"]),
    ("ask_secret that is not there", "secret: reply-keys}",
     'secret: reply-keys, ask: "https://app.example.com/k", ask_secret: app-webhok}',
     ["5:94: secret: there is no entry of this name in ", 'did you mean "app-webhook"?']),
    ("ask_secret of a key", "secret: reply-keys}",
     'secret: reply-keys, ask: "https://app.example.com/k", ask_secret: reply-keys}',
     ["secrets.yml:1:14: the secret does not begin with whsec_"]),
    ("asked and unchecked", "format: signed, secret: reply-keys}\n    sender: {must-match: park}",
     'format: zulip, unchecked: true, ask: "https://app.example.com/k"}',
     ["5:49: ask: the app is asked, so its keys are checked: take unchecked: true out"]),
    # who may write
    ("sender that is none", "{must-match: park}", "{deny: [some body]}", ['6:21: deny: "some body" is no sender: write person@example.org, ']),
    ("sender with a quoted local part", "{must-match: park}", "{allow: ['\"a b\"@example.org']}", ["6:22: allow: ", "is no address without quotes"]),
    ("sender without a domain", "{must-match: park}", "{deny: ['person@']}", ["6:21: deny: ", "is no host name"]),
    ("sender without a local part", "{must-match: park}", "{deny: ['@example.org']}", ["6:21: deny: ", "is no address without quotes"]),
    ("network with bits behind its prefix", "{must-match: park}", "{deny: [192.0.2.1/24]}",
     ['6:21: deny: "192.0.2.1/24" has bits behind its prefix: write 192.0.2.0/24']),
    ("network too long", "{must-match: park}", "{deny: [192.0.2.0/33]}", ['6:21: deny: "192.0.2.0/33" is no sender']),
    ("a dot alone", "{must-match: park}", "{deny: ['.']}", ['6:21: deny: "." is no sender']),
    ("two dots in front", "{must-match: park}", "{deny: [..example.org]}", ['6:21: deny: "..example.org" is no sender']),
    ("a wildcard", "{must-match: park}", "{deny: ['*.example.org']}", ['6:21: deny: "*.example.org" is no sender']),
    ("a wildcard for people", "{must-match: park}", "{deny: ['*@example.org']}", ["6:21: deny: ", "write person@example.org, example.org"]),
    ("senders as a text", "{must-match: park}", "{deny: example.org}", ["6:20: deny: must be a list"]),
    ("allow at the top", "screening: {automatic: discard}", "allow: [example.org]",
     ['15:1: "allow" does not belong here: write it under sender:']),
    # the milter
    ("milter without its two names", "screening: {automatic: discard}", "milter: {dns: []}",
     ["15:9: milter: socket is missing", "15:9: milter: authserv_id is missing"]),
    ("milter as a text", "screening: {automatic: discard}", "milter: unix:/m", ["15:9: milter: must be names with values"]),
    ("milter with a strange name", "screening: {automatic: discard}", "milter: {socket: 'unix:/m', authserv_id: mx.example.com, port: 1}",
     ['15:58: unknown setting "port" in milter']),
    *((f"milter socket {text}", "screening: {automatic: discard}", f"milter: {{authserv_id: mx.example.com, socket: '{text}'}}",
       [f"15:47: socket: {told}"]) for text, told in (
        ("m", '"m" is no socket: write unix:/PATH or inet:PORT@127.0.0.1'), ("unix:m", '"m" is no absolute path'),
        ("unix:/" + "m" * 107, '"unix:/'), ("inet:8891", '"inet:8891": whoever reaches it may ask which keys live'),
        ("inet:8891@0.0.0.0", '"inet:8891@0.0.0.0": whoever reaches it'), ("inet:8891@mx.example.com", '"inet:8891@mx.example.com": whoever'),
        ("inet:0@127.0.0.1", '"inet:0@127.0.0.1" is no socket'), ("inet:70000@127.0.0.1", '"inet:70000@127.0.0.1" is no socket'),
        ("inet:@127.0.0.1", '"inet:@127.0.0.1" is no socket'), ("inet6:8891@::1", '"inet6:8891@::1" is no socket'),
        ("127.0.0.1:8891", '"127.0.0.1:8891" is no socket'))),
    *((f"milter {text}", "screening: {automatic: discard}", f"milter: {{socket: 'unix:/m', authserv_id: mx.example.com, {text}}}", [told])
      for text, told in (
        ("authenticate: [dkmi]", '15:73: authenticate: "dkmi" is not one of spf, dkim, dmarc, arc; did you mean "dkim"?'),
        ("authenticate: spf", "15:72: authenticate: must be a list"),
        ("dns: [localhost]", '15:64: dns: "localhost" is no address of a DNS server'),
        ("dns: ['127.0.0.1:0']", '15:64: dns: "127.0.0.1:0": a port is 1 to 65535'),
        ("dns: ['[::1']", '15:64: dns: "[::1": a port is'), ("dns: ['::1]']", '15:64: dns: "::1]" is no address'), ("dns: ['[::1]53x']", '15:64: dns: "[::1]53x": a port is'),
        ("dns_deadline: 61s", "15:72: dns_deadline: more than 60s"), ("dns_deadline: 5", '15:72: dns_deadline: "5" is no duration'),
        ("default_action: reject", '15:74: default_action: "reject" is not one of tempfail, accept'))),
    ("milter named by an address", "screening: {automatic: discard}", "milter: {socket: 'unix:/m', authserv_id: 192.0.2.1}",
     ['15:42: authserv_id: "192.0.2.1" is no host name']),
    ("a milter's name at the top", "screening: {automatic: discard}", "authserv_id: mx.example.com",
     ['15:1: "authserv_id" does not belong here: write it under milter:']),
    # the warm process
    ("lmtp without a socket", "screening: {automatic: discard}", "lmtp: {workers: 2}", ["15:7: lmtp: socket is missing"]),
    ("lmtp where the milter is", "screening: {automatic: discard}",
     "milter: {socket: 'unix:/m', authserv_id: mx.example.com}\nlmtp: {socket: 'unix:/m'}",
     ["16:16: socket: is milter.socket as well"]),
    *((f"lmtp {text}", "screening: {automatic: discard}", f"lmtp: {{socket: 'unix:/m', {text}}}", [told]) for text, told in (
        ("workers: 0", "15:36: workers: 0 is out of range: 1 to 64"),
        ("max_messages: 1", "15:41: max_messages: is less than one for each of the workers"),
        ("max_bytes: 1000", "15:38: max_bytes: 1000 is out of range"), ("peers: postfix", "15:34: peers: must be a list"),
        ("peers: [Post Fix]", '15:35: peers: "Post Fix" is no user name'), ("idle: 5", '15:33: idle: "5" is no duration'),
        ("wiring: thick", '15:35: wiring: "thick" is not one of lmtp, thin, pipe'),
        ("fallback: bounce", '15:37: fallback: "bounce" is not one of local, defer'))),
    *((f"lmtp socket {text[:20]}", "screening: {automatic: discard}", f"lmtp: {{socket: '{text}'}}", [f"15:16: socket: {told}"])
      for text, told in (("inet:24@127.0.0.1", '"inet:24@127.0.0.1" is no Unix socket: write unix:/PATH'),
                         ("unix:m", '"m" is no absolute path'), ("unix:/" + "m" * 107, '"unix:/'))),
    ("an lmtp name at the top", "screening: {automatic: discard}", "workers: 2",
     ['15:1: "workers" does not belong here: write it under lmtp:']),
    ("limits of another form", "screening: {automatic: discard}", "limits: {per_key: [50]}",
     ['15:20: per_key: "50" is no rate: write a number, / and a duration, such as 50/1m']),
    ("limits under another name", "screening: {automatic: discard}", "limits: {per_host: [50/1m]}",
     ['15:10: unknown setting "per_host" in limits']),
    # sinks
    ("command as one text", "{maildir: /var/mail/desk}", "{command: /bin/app --mail}",
     ["13:18: command: must be a list, one word an item, such as [/bin/app, --mail]: there is no shell"]),
    ("command of no word", "{maildir: /var/mail/desk}", "{command: []}", ["13:18: command: is empty; it needs at least one"]),
    ("command without a path", "{maildir: /var/mail/desk}", "{command: [app, --mail]}",
     ['13:19: command: "app" is no absolute path: begin the program with /']),
    ("command with a webhook's name", "{maildir: /var/mail/desk}", "{command: [/bin/app], format: raw}",
     ["13:38: format: belongs to a webhook; this sink is a command"]),
    ("sink of two kinds", "secret: app-webhook}", "secret: app-webhook, maildir: /x}",
     ["12:80: maildir: this sink is a webhook already; make it two sinks"]),
    ("sink of no kind", "{maildir: /var/mail/desk}", "{}",
     ['13:3: "box": says nowhere to go: give it webhook: URL, maildir: /FOLDER or command: [/PROGRAM]']),
    ("webhook without a secret", ", secret: app-webhook", "", ['12:3: "app": secret is missing']),
    ("Maildir with a secret", "/var/mail/desk}", "/var/mail/desk, secret: x}",
     ["13:42: secret: belongs to a webhook; this sink is a maildir", ]),
    ("a sink that takes nothing", "/var/mail/desk}", "/var/mail/desk, at_once: 0}", ["13:43: at_once: "]),
    ("at_once for all sinks", "screening: {automatic: discard}", "at_once: 5",
     ['15:1: "at_once" does not belong here: write it under a sink']),
    ("Maildir with confirm", "/var/mail/desk}", "/var/mail/desk, confirm: true}", ["13:43: confirm: belongs to a webhook"]),
    ("deliver under a sink", "{maildir: /var/mail/desk}", "{maildir: /var/mail/desk, deliver: [x]}",
     ['13:34: "deliver" does not belong here: write it under a route']),
    # secrets that are not there
    ("no such secret", "secret: reply-keys", "secret: reply-key", ["5:36: secret: there is no entry of this name in ",
     'did you mean "reply-keys"?']),
    ("no such secret for a webhook", "secret: app-webhook", "secret: xyz",
     ["12:58: secret: there is no entry of this name in "]),
    ("a secret's name with a blank", "secret: reply-keys", "secret: reply keys", ["5:36: secret: is no name: 1 to 64"]),
    ("a webhook's secret for a key", "secret: app-webhook", "secret: reply-keys",
     ["secrets.yml:1:14: the secret does not begin with whsec_"]),
    # YAML
    ("anchor", "{automatic: discard}", "&a {automatic: discard}", ["15:12: an anchor; there are none here"]),
    ("alias", "[app, box]", "[app, *box]", ["10:20: an alias; there are none here"]),
    ("merge", "{automatic: discard}", "{<<: {automatic: discard}}", ["15:13: a merge; there are none here"]),
    ("tag", "{automatic: discard}", "!!map {automatic: discard}", ["15:12: a tag; there are none here"]),
    ("tag that would run a command", "name: desk", "name: !!python/object/apply:os.system [id]",
     ["8:11: a tag; there are none here", "8:11: name: must be a text, is a list"]),
    ("tag of Python", "name: desk", "name: !!python/name:os.system id", ["8:11: a tag; there are none here"]),
    ("tag of no kind", "name: desk", "name: ! desk", ["8:11: a tag; there are none here"]),
    ("two documents", "timing: {deadline: 120s, lease: 180s}", "---\na: b", ["14:1: a second document: only one is read"]),
    ("tab in front", "screening: {automatic: discard}", "screening:\n\tautomatic: discard",
     ["16:1: a tab at the front of a line: use spaces"]),
    ("tab behind a blank", "screening: {automatic: discard}", "screening:\n  \tautomatic: discard",
     ["16:3: a tab at the front of a line: use spaces"]),
    ("tab behind a name", "screening: {", "screening:\t{", ["15:11: is not YAML: a tab: use spaces"]),
    ("placeholder without quotation marks", "desk@in.example.com", "%{key}@in.example.com",
     ["9:14: is not YAML: text cannot begin with this character: put quotation marks around the text"]),
    ("no blank behind the colon", "screening: {automatic: discard}", "store:/var/lib/x\nlog: syslog",
     ["16:1: is not YAML: a name without its colon, or a colon without the space that must follow it"]),
    ("quotation mark without a partner", "/mail\", secret", "/mail, secret",
     ["16:1: is not YAML: the quotation mark at the front has no partner (while scanning a quoted scalar, begun at 12:18)"]),
    ("bracket without a partner", "[app, box]", "[app, box",
     ["is not YAML: a bracket is not closed, or a comma is missing (while parsing a flow sequence, begun at 10:14)"]),
    ("wrong indentation", "    deliver: [app, box]", "   deliver: [app, box]",
     ["10:4: is not YAML: does not fit what is around it"]),
    ("escape of NUL", "/var/mail/desk}", '"/var/mail/\\0desk"}',
     ["13:18: control character U+0000 in a text: write it on one line"]),
    ("escape of half a character", "/var/mail/desk}", '"/var/\\ud800"}', ["13:18: control character U+D800 in a text"]),
    ("escape of no character", "/var/mail/desk}", '"/var/\\UFFFFFFFF"}',
     ["is not YAML: look for a backslash in quotation marks"]),
    ("a block of lines", "name: desk", "name: |\n      desk", ["8:11: a line end in a text: write it on one line"]),
    ("control character", "trusted:", "# \x07\ntrusted:", ["1:3: control character U+0007"]),
    ("carriage return alone", "trusted:", "# \rtrusted:", ["1:3: control character U+000D"]),
    ("line separator", "trusted:", "# \u2028trusted:", ["1:3: control character U+2028"]),
    ("second byte order mark", "trusted:", "# \ufeff\ntrusted:", ["1:3: control character U+FEFF"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN])
def test_a_mistake_is_told_at_its_place(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    """One mistake gives its problem, with line and column, and no other."""
    told = problems(write(tmp_path, changed(old, new)))
    places = [fragment for fragment in expected if fragment[0].isdigit() or fragment.startswith("secrets.yml:")]
    assert len(told) == max(1, len(places)), told
    for problem, place in zip(told, places, strict=False):
        assert (place if place.startswith("secrets.yml:") else f"gatepost.yml:{place}") in problem
    assert all(any(fragment in problem for problem in told) for fragment in expected), told


def test_every_kind_of_mistake_has_a_row() -> None:
    """The table does not shrink by accident, and each row has a name of its own."""
    assert len({row[0] for row in BROKEN}) == len(BROKEN) >= 100


#: id, the whole file, and its only problem.
WHOLE: list[tuple[str, bytes, str]] = [
    ("empty", b"", "gatepost.yml: is empty"),
    ("blank lines", b"\n\n", "gatepost.yml: is empty"),
    ("only a comment", b"# nothing\n", "gatepost.yml: is empty"),
    ("only a document's start", b"---\n", "gatepost.yml: is empty"),
    ("only a byte order mark", b"\xef\xbb\xbf", "gatepost.yml: is empty"),
    ("a text", b"hello\n", "gatepost.yml:1:1: the configuration: must be names with values (name: value), is a text"),
    ("a list", b"- a\n", "gatepost.yml:1:1: the configuration: must be names with values (name: value), is a list"),
    ("not UTF-8", b"a: b\nc\xc3\xa4: \xff\n", "gatepost.yml:2:5: byte 0xff is not UTF-8"),
    ("UTF-16", "a: b".encode("utf-16"), "gatepost.yml:1:1: byte 0xff is not UTF-8"),
    ("UTF-8 cut off", b"a: \xc3", "gatepost.yml:1:4: byte 0xc3 is not UTF-8"),
    ("NUL", b"\0", "gatepost.yml:1:1: control character U+0000"),
    ("too large", b"#" * 1_048_577, "gatepost.yml: is larger than 1 MiB: is it the right file?"),
    ("too deep", b"[" * 100_000, "gatepost.yml:1:17: nested deeper than 16 levels"),
    ("too deep in braces", b"{a: " * 100_000, "gatepost.yml:1:65: nested deeper than 16 levels"),
    ("too deep in dashes", b"- " * 100_000, "gatepost.yml:1:33: nested deeper than 16 levels"),
    ("too many values", b"[" + b"a," * 60_000 + b"]", "gatepost.yml:1:100002: more than 50,000 values: is it the right file?"),
]


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*row[1:], id=row[0]) for row in WHOLE])
def test_a_file_that_is_no_configuration_is_one_problem(tmp_path: Path, data: bytes, expected: str) -> None:
    """A file that cannot be read as names and values says so once, with the place where there is one."""
    assert problems(write(tmp_path, data)) == [expected]


def test_a_bomb_of_aliases_is_not_lit(tmp_path: Path) -> None:
    """Nine lists of nine aliases would be 400 million values: no alias is followed, each line is told."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    told = problems(write(tmp_path, "\n".join(lines)))
    assert len(told) == 9 + 72 + 9 + 2  # anchors, aliases, unknown names, names missing
    assert "gatepost.yml:1:4: an anchor; there are none here" in told[3]


def test_every_problem_comes_at_once(tmp_path: Path) -> None:
    """Eight mistakes of eight kinds, in the configuration and in the secrets: eight problems, in the order of the files."""
    text = """\
trusted: mx.example.com
routes:
  - name: replies
    address: "reply+%{key}@in.example.com"
    keys: {format: sined, secret: reply-keys}
    deliver: [ap]
timing: {deadline: 2 minutes}
timing: {}
screning: {}
sinks:
  app: {webhook: "http://app.example.com/mail", secret: app-webhook}
"""
    told = problems(write(tmp_path, text, SECRETS.replace(KEY, "too short")))
    assert [problem.partition(": ")[0] for problem in told] == [
        "gatepost.yml:1:10", "gatepost.yml:5:20", "gatepost.yml:6:15", "gatepost.yml:7:20", "gatepost.yml:8:1",
        "gatepost.yml:9:1", "gatepost.yml:11:18", "secrets.yml:1:14",
    ]  # fmt: skip


def test_a_thousand_problems_are_a_hundred(tmp_path: Path) -> None:
    """A file of another kind does not fill the terminal: the first hundred are told, and how many more there are."""
    told = problems(write(tmp_path, "".join(f"nonsense{number}: 1\n" for number in range(1_000))))
    assert len(told) == 101
    assert told[-1] == "gatepost.yml: and 902 more problems"


URLS: list[tuple[str, str, str]] = [
    ("https", "https://app.example.com/mail", ""),
    ("https with a port and a query", "https://app.example.com:8443/mail?a=b&c", ""),
    ("https to an address", "https://192.0.2.1/", ""),
    ("https to an IPv6 address", "https://[2001:db8::1]:8443/", ""),
    ("capitals", "HTTPS://App.Example.com", ""),
    ("http to 127.0.0.1", "http://127.0.0.1:8000/mail", ""),
    ("http elsewhere in 127/8", "http://127.8.9.10/mail", ""),
    ("http to ::1", "http://[::1]:8000/mail", ""),
    ("http to localhost", "http://localhost:8000/mail", ""),
    ("http to a stranger", "http://app.example.com/mail", "http is for this host only"),
    ("http to a name that begins with 127", "http://127.0.0.1.example.org/", "http is for this host only"),
    ("http to a name that begins with localhost", "http://localhost.example.org/", "http is for this host only"),
    ("http to a short form of 127.0.0.1", "http://127.1/", "host is no host name"),
    ("http to all addresses", "http://0.0.0.0/", "http is for this host only"),
    ("http to a mapped address", "http://[::ffff:127.0.0.1]/", "http is for this host only"),
    ("http to a scoped address", "http://[::1%25lo]/", "% in it"),
    ("http by user info", "http://localhost@app.example.com/", "user or password"),
    ("user and password", "https://user:hunter2@app.example.com/", "user or password"),
    ("empty user", "https://@app.example.com/", "user or password"),
    ("fragment", "https://app.example.com/#x", "fragment"),
    ("empty fragment", "https://app.example.com/#", "fragment"),
    ("no scheme", "app.example.com/mail", "begins with https://"),
    ("another scheme", "ftp://app.example.com/", "begins with https://"),
    ("a file", "file:///etc/passwd", "begins with https://"),
    ("no host", "https:///mail", "host is no host name"),
    ("host with an underscore", "https://my_app.example.com/", "host is no host name"),
    ("port out of range", "https://app.example.com:99999/", "host or port cannot be read"),
    ("port 0", "https://app.example.com:0/", "without a usable port"),
    ("port without a number", "https://app.example.com:/", "without a usable port"),
    ("blank", "https://app.example.com/a b", "only printable ASCII"),
    ("backslash", "https://app.example.com\\\\@evil/", "only printable ASCII"),
    ("beyond ASCII", "https://äpp.example.com/", "only printable ASCII"),
    ("half a bracket", "https://[::1/", "host or port cannot be read"),
]


@pytest.mark.parametrize(("url", "fragment"), [pytest.param(*row[1:], id=row[0]) for row in URLS])
def test_where_a_webhook_may_go(tmp_path: Path, url: str, fragment: str) -> None:
    """https anywhere; http only to this host; nothing in the URL that a log or a server must not see."""
    path = write(tmp_path, changed("https://app.example.com/mail", url))
    if not fragment:
        assert load(path).sink("app").target == url
        return
    (told,) = problems(path)
    assert told.startswith("gatepost.yml:12:18: webhook: ")
    assert fragment in told
    assert "hunter2" not in told


SIZES = [("1", 1), ("500", 500), ("1B", 1), ("2kB", 2_000), ("2KB", 2_000), ("500MB", 500_000_000), ("1 GiB", 2**30),
         ("3gb", 3 * 10**9), ("1KiB", 1_024), ("7MiB", 7 * 2**20), ("1TiB", 2**40)]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), SIZES)
@pytest.mark.parametrize("quote", ["", '"', "'"], ids=["plain", "double", "single"])
def test_sizes(tmp_path: Path, text: str, size: int, quote: str) -> None:
    """A size is a whole number and a unit of 1000s or 1024s, quoted or not; without a unit it is bytes."""
    settings = load(write(tmp_path, changed("screening: {automatic: discard}", f"parked: {{max_size: {quote}{text}{quote}}}")))
    assert settings.parked.max_bytes == size


@pytest.mark.parametrize("quote", ["", '"', "'"], ids=["plain", "double", "single"])
def test_scalars_are_texts_until_the_schema_types_them(tmp_path: Path, quote: str) -> None:
    """What YAML 1.1 would read as true, null, a number or base sixty is a name like another; quoting changes nothing."""
    text = GOOD
    for old, new in (("name: replies", "on"), ("name: desk", "010")):
        text = text.replace(old, f"name: {quote}{new}{quote}")
    text = text.replace("box", f"{quote}null{quote}").replace("180s", f"{quote}180s{quote}")
    settings = load(write(tmp_path, text))
    assert [route.name for route in settings.routes] == ["on", "010"]
    assert settings.routes[1].deliver == ("app", "null")
    assert settings.timing.lease == 180.0


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    """An editor's habits change neither the settings nor the places of problems."""
    plain = load(write(tmp_path))
    assert load(write(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())) == plain
    broken = b"\xef\xbb\xbf" + changed("discard", "x").replace("\n", "\r\n").encode()
    assert problems(write(tmp_path, broken))[0].startswith("gatepost.yml:15:24: automatic:")


NOT_YET: list[tuple[str, str, str]] = [
    ("mailboxes", "mailboxes: [{host: x}]", "16:12: mailboxes: not acted on in this version"),
]


@pytest.mark.parametrize(("line", "expected"), [pytest.param(*row[1:], id=row[0]) for row in NOT_YET])
def test_a_name_that_does_nothing_yet_is_a_warning(tmp_path: Path, line: str, expected: str) -> None:
    """Frozen names load, with a warning at their place that nothing comes of them."""
    settings, warnings = load_with_warnings(write(tmp_path, GOOD + line + "\n"))
    assert [str(warning).partition("gatepost.yml:")[2] for warning in warnings] == [expected]
    assert settings == load(write(tmp_path))


LIMITS = [
    ("", ((), (), ()), "nothing is limited that nobody asked to limit"),
    ("limits: {}", (USUAL_LIMITS, USUAL_LIMITS, ()), "the usual ones"),
    ("limits: {per_key: [5/1m, 9/1h], per_route: [1000/1d]}", (((5, 60.0), (9, 3600.0)), USUAL_LIMITS, ((1000, 86400.0),)), "some"),
    ("limits: {per_sender: []}", (USUAL_LIMITS, (), ()), "one turned off"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), [row[:2] for row in LIMITS], ids=[row[2] for row in LIMITS])
def test_limits(tmp_path: Path, line: str, expected: tuple[object, ...]) -> None:
    """limits: turns them on; each name may be changed or emptied."""
    found = load(write(tmp_path, GOOD + line + "\n")).limits
    assert (found.per_key, found.per_sender, found.per_route) == expected


OTHER_FORMATS = [
    ("format: gitlab, kinds: [reply, service-desk], unchecked: true", ("gitlab", ("reply", "service-desk"), "", "")),
    ("format: zulip, unchecked: true, revoked: gone", ("zulip", (), "", "")),
    ('format: pattern, pattern: "[0-9a-f]{8}", unchecked: true', ("pattern", (), "[0-9a-f]{8}", "")),
    ("format: list, file: /etc/gatepost/keys", ("list", (), "", "/etc/gatepost/keys")),
]


@pytest.mark.parametrize(("text", "expected"), OTHER_FORMATS)
def test_other_apps_keys_load(tmp_path: Path, text: str, expected: tuple[object, ...]) -> None:
    """Each format with what belongs to it; the general must-match does not touch routes whose keys have no owner."""
    changed_keys = GOOD.replace("format: signed, secret: reply-keys}\n    sender: {must-match: park}", text + "}", 1)
    keys = load(write(tmp_path, changed_keys + "sender: {must-match: park}\n")).routes[0].keys
    assert keys is not None
    assert (keys.format, keys.kinds, keys.pattern, keys.file) == expected
    assert load(write(tmp_path, changed_keys + "sender: {must-match: park}\n")).routes[0].must_match == ""


def test_the_general_sender_holds_for_every_route_with_keys(tmp_path: Path) -> None:
    """sender at the top is the default of each route that has keys; a route's own word is stronger."""
    general = GOOD + "sender: {must-match: reject}\n"
    assert [route.must_match for route in load(write(tmp_path, general)).routes] == ["park", ""]
    silent = general.replace("    sender: {must-match: park}\n", "")
    assert [route.must_match for route in load(write(tmp_path, silent)).routes] == ["reject", ""]


MILTERS = [
    ("", None, "no milter"),
    ("socket: 'unix:/run/gatepost/milter.sock'", {}, "what is usual"),
    ("socket: 'local:/run//gatepost/milter.sock'", {}, "libmilter's other word, one form of the path"),
    ("socket: 'inet:08891@127.0.0.1'", {"socket": "inet:8891@127.0.0.1"}, "TCP on loopback"),
    ("socket: 'inet:8891@::1'", {"socket": "inet:8891@::1"}, "TCP, IPv6"),
    ("socket: 'inet:8891@localhost'", {"socket": "inet:8891@localhost"}, "TCP, by name"),
    ("socket: 'unix:/run/gatepost/milter.sock', authenticate: []", {"authenticate": ()}, "asks no DNS"),
    ("socket: 'unix:/run/gatepost/milter.sock', authenticate: [spf, dkim]", {"authenticate": ("spf", "dkim")}, "some methods"),
    ("socket: 'unix:/run/gatepost/milter.sock', dns: [127.0.0.1, '127.0.0.1:5353', '::1', '[::1]', '[2001:DB8::1]:5353']",
     {"dns": ("127.0.0.1:53", "127.0.0.1:5353", "[::1]:53", "[::1]:53", "[2001:db8::1]:5353")}, "resolvers of one's own"),
    ("socket: 'unix:/run/gatepost/milter.sock', dns_deadline: 1m, default_action: accept",
     {"dns_deadline": 60.0, "default_action": "accept"}, "the longest deadline; a Postfix that serves others"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changes"), [row[:2] for row in MILTERS], ids=[row[2] for row in MILTERS])
def test_a_milter_loads(tmp_path: Path, text: str, changes: dict[str, Any] | None) -> None:
    """`milter:` needs a socket and a name; the rest has the settings' defaults; a name is in one form."""
    line = f"milter: {{authserv_id: MX.Example.com., {text}}}\n" if text else ""
    settings, warnings = load_with_warnings(write(tmp_path, GOOD + line))
    usual = {"socket": "unix:/run/gatepost/milter.sock", "authserv_id": "mx.example.com"}
    assert settings.milter == (None if changes is None else MilterSettings(**(usual | changes)))
    assert warnings == ()


LMTPS = [
    ("", None, "no warm process"),
    ("", {}, "what is usual"),
    ("wiring: pipe, fallback: defer, workers: 4, max_messages: 4, max_bytes: 1MiB, peers: [], idle: 30s",
     {"wiring": "pipe", "fallback": "defer", "workers": 4, "max_messages": 4, "max_bytes": 1_048_576, "peers": (), "idle": 30.0}, "everything"),
    ("wiring: thin", {"wiring": "thin"}, "the script, thin"),
    ("peers: [vmail, post.fix]", {"peers": ("vmail", "post.fix")}, "other users"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "changes"), [row[:2] for row in LMTPS], ids=[row[2] for row in LMTPS])
def test_a_warm_process_loads(tmp_path: Path, text: str, changes: dict[str, Any] | None) -> None:
    """`lmtp:` needs a socket; the rest has the settings' defaults."""
    line = "" if changes is None else f"lmtp: {{socket: 'unix:/run//gatepost/lmtp.sock', {text}}}\n"
    settings, warnings = load_with_warnings(write(tmp_path, GOOD + line))
    assert settings.lmtp == (
        None if changes is None else LmtpSettings(**({"socket": "unix:/run/gatepost/lmtp.sock"} | changes))
    )
    assert warnings == ()


SENDERS = [
    ("Person@Example.ORG.", "person@example.org", "an address, in one form"),
    ("a+b@example.org", "a+b@example.org", "a sub-address is an address of its own"),
    ("EXAMPLE.org", "example.org", "a domain"),
    (".Example.org.", ".example.org", "all below a domain"),
    ("192.0.2.7", "192.0.2.7/32", "one IPv4 address"),
    ("192.0.2.0/24", "192.0.2.0/24", "a network"),
    ("0.0.0.0/0", "0.0.0.0/0", "everybody with IPv4"),
    ("2001:DB8::1", "2001:db8::1/128", "one IPv6 address"),
    ("2001:DB8::/32", "2001:db8::/32", "an IPv6 network"),
    ("::ffff:192.0.2.0/120", "192.0.2.0/24", "an IPv4 network as IPv6 writes it (RFC 4291 2.5.5.2)"),
    ("::ffff:192.0.2.7", "192.0.2.7/32", "an IPv4 address as IPv6 writes it"),
]


@pytest.mark.parametrize(("text", "entry"), [row[:2] for row in SENDERS], ids=[row[2] for row in SENDERS])
@pytest.mark.parametrize("name", ["allow", "deny"])
def test_senders_load(tmp_path: Path, name: str, text: str, entry: str) -> None:
    """An entry of sender.allow and sender.deny is an address, a domain, all below one, or a network, each in one form."""
    route = load(write(tmp_path, changed("{must-match: park}", f"{{{name}: ['{text}']}}"))).routes[0]
    assert getattr(route, name) == (entry,)


def test_general_and_own_senders(tmp_path: Path) -> None:
    """A route's own `allow` takes the general one's place, for it says who may; what the general `deny` says holds everywhere."""
    own = changed("{must-match: park}", "{allow: [example.net], deny: [b.example.org, a.example.org]}")
    text = own + "sender: {allow: [example.org, 192.0.2.0/24], deny: [a.example.org]}\n"
    replies, desk = load(write(tmp_path, text)).routes
    assert (replies.allow, replies.deny) == (("example.net",), ("a.example.org", "b.example.org"))
    assert (desk.allow, desk.deny) == (("example.org", "192.0.2.0/24"), ("a.example.org",))
    everybody = text.replace("allow: [example.net]", "allow: []")
    assert load(write(tmp_path, everybody)).routes[0].allow == ()


ASKS = [
    ("", None, "not asked"),
    ('ask: "https://app.example.com/k"', ("https://app.example.com/k", (b"012345678901234567890123456789",), "ca.pem"),
     "signed as the route's first webhook is, which has the same certificate"),
    ('ask: "https://app.example.com/k", ask_secret: asking', ("https://app.example.com/k", (b"0" * 24, b"1" * 24), "ca.pem"),
     "a secret of its own, all of it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [row[:2] for row in ASKS], ids=[row[2] for row in ASKS])
def test_ask_loads(tmp_path: Path, text: str, expected: tuple[str, tuple[bytes, ...], str] | None) -> None:
    """`ask:` has its URL, decoded secrets and the certificate of the webhook beside it, where there is one."""
    (tmp_path / "ca.pem").touch()
    config = changed("secret: app-webhook}", "secret: app-webhook, ca_file: ca.pem}")
    config = config.replace("secret: reply-keys}", f"secret: reply-keys, {text}}}" if text else "secret: reply-keys}")
    secrets = SECRETS + f"asking: [whsec_{'MDAw' * 8}, whsec_{'MTEx' * 8}]\n"
    keys = load(write(tmp_path, config, secrets)).routes[0].keys
    assert keys is not None
    if expected is None:
        assert keys.ask is None
        return
    url, known, ca_file = expected
    assert keys.ask == Ask(url=url, secrets=known, ca_file=str(tmp_path / ca_file))


def test_ask_for_a_route_without_a_webhook(tmp_path: Path) -> None:
    """A route that delivers into a Maildir may ask all the same, with a secret of its own; nobody's certificate goes with it."""
    old = "secret: reply-keys}\n    sender: {must-match: park}\n    deliver: [app]"
    new = 'secret: reply-keys, ask: "https://app.example.com/k", ask_secret: app-webhook}\n    deliver: [box, app]'
    keys = load(write(tmp_path, changed(old, new.replace("[box, app]", "[box]")))).routes[0].keys
    assert keys is not None
    assert keys.ask == Ask(url="https://app.example.com/k", secrets=(b"012345678901234567890123456789",))


def test_the_design_s_example_loads(tmp_path: Path) -> None:
    """docs/design.md's configuration is one: no problem, no warning; its first route is the good file's, but for whom it denies."""
    page = (DOCS.parent / "design.md").read_text()
    (example,) = [block.removeprefix("yaml\n") for block in page.split("```") if block.startswith("yaml\n")]
    settings, warnings = load_with_warnings(write(tmp_path, example))
    assert warnings == ()
    replies, desk = settings.routes
    assert replies.replace(deny=()) == load(write(tmp_path)).routes[0]
    assert desk.keys is not None
    assert desk.keys.ask is not None
    assert desk.screening.automatic == "reject"


@pytest.mark.parametrize("name", Screening._fields)
def test_every_family_has_an_action(tmp_path: Path, name: str) -> None:
    """Each family of findings takes an action, over all routes or in one; a wrong action is a problem."""
    one = f"    screening: {{{name}: park}}\n    deliver: [app]\n"
    for old, new in (("{automatic: discard}", f"{{{name}: park}}"), ("    deliver: [app]\n", one)):
        settings, warnings = load_with_warnings(write(tmp_path, changed(old, new)))
        assert getattr(settings.routes[0].screening, name) == "park"
        assert not warnings
    assert len(problems(write(tmp_path, changed("{automatic: discard}", f"{{{name}: bounce}}")))) == 1


TIMES: list[tuple[str, str, str]] = [
    ("lease as long as a retry's wait", "{lease: 300s}", "lease: not below 300s, Postfix's default minimal_backoff_time"),
    ("lease just below", "{lease: 299s}", ""),
    ("parked too late", "{give_up_after: 5d}", "give_up_after: not below 5d, Postfix's default maximal_queue_lifetime"),
    ("parked just in time", "{give_up_after: 119h}", ""),
    ("seconds, as in a test", "{deadline: 1s, lease: 2s, give_up_after: 3s}", ""),
]


@pytest.mark.parametrize(("timing", "fragment"), [pytest.param(*row[1:], id=row[0]) for row in TIMES])
def test_times_that_do_not_fit_postfix_are_a_warning(tmp_path: Path, timing: str, fragment: str) -> None:
    """Postfix's own times may have been changed, so what does not fit its defaults is legal, and told."""
    _, warnings = load_with_warnings(write(tmp_path, changed("{deadline: 120s, lease: 180s}", timing)))
    assert [fragment in warning.text for warning in warnings] == ([True] if fragment else [])


def test_a_missing_ca_file_is_a_warning(tmp_path: Path) -> None:
    """A certificate that is not there yet stops one sink, not the gateway: told, with its whole path."""
    path = write(tmp_path, changed("secret: app-webhook}", "secret: app-webhook, ca_file: ca.pem}"))
    _, (warning,) = load_with_warnings(path)
    assert f"there is no file {tmp_path}/ca.pem" in warning.text
    assert (warning.line, warning.column) == (12, 80)


def test_a_route_screens_over_the_general_one(tmp_path: Path) -> None:
    """A route's own action wins, then the general one, then the default, family by family, wherever `screening` stands."""
    text = changed("{automatic: discard}", "{automatic: reject, loops: park}")
    text = text.replace("    sender:", "    screening: {automatic: accept}\n    sender:")
    replies, desk = load(write(tmp_path, text)).routes
    assert replies.screening == Screening(automatic="accept", loops="park", bounces="discard")
    assert desk.screening == Screening(automatic="reject", loops="park", bounces="discard")


SECRET = "N3ver-t0-be-sh0wn-anywhere-0123456789"
SECRET_FILES: list[tuple[str, str, list[str]]] = [
    ("too short", 'reply-keys: ["N3ver-t0-be-sh0wn"]', ["1:14: the secret is 17 bytes long; at least 32 are needed"]),
    ("31 bytes", f"reply-keys: {'x' * 31}", ["1:13: the secret is 31 bytes long"]),
    ("second of two", f"reply-keys: [{SECRET}, N3ver]", ["1:53: the secret is 5 bytes long"]),
    ("no text", "reply-keys: []", ["1:13: the secret must be a list of texts, newest last (or one text)"]),
    ("nothing", "reply-keys:", ["1:12: the secret must be a list of texts"]),
    ("names", f"reply-keys: {{new: {SECRET}}}", ["1:13: the secret must be a list of texts"]),
    ("list in a list", f"reply-keys: [[{SECRET}]]", ["1:14: the secret must be a list of texts"]),
    ("doubled", f"reply-keys: {SECRET}\nreply-keys: {SECRET}", ["2:1: this name stands twice: the first is at 1:1"]),
    ("doubled, and not named", f"{SECRET}: a\n{SECRET}: b\nreply-keys: {SECRET}", ["2:1: this name stands twice"]),
    ("block of lines", f"reply-keys: |\n  {SECRET}\n", ["1:13: a line end in a text"]),
    ("blank at the end", f'reply-keys: "{SECRET} "', ["1:13: the secret begins or ends with a blank"]),
    ("anchor", f"reply-keys: &N3ver {SECRET}", ["1:13: an anchor; there are none here"]),
    ("tag by accident", f"reply-keys: !{SECRET} x", ["1:13: a tag; there are none here"]),
    ("tag handle by accident", f"reply-keys: !N3ver!{SECRET} x", ["1:13: is not YAML: "]),
    ("alias by accident", f"reply-keys: *{SECRET}", ["1:13: an alias; there are none here"]),
    ("percent in front", f"reply-keys: %{SECRET}", ["1:13: is not YAML: text cannot begin with this character"]),
    ("list of names", f"- {SECRET}", ["1:1: must be names with values"]),
    ("only the secret", SECRET, ["1:1: must be names with values"]),
    ("no blank behind the colon", f"reply-keys:{SECRET}\nb: c", ["2:2: is not YAML: a colon does not fit here"]),
    ("bracket open", f"reply-keys: [{SECRET}", ["is not YAML: a bracket is not closed"]),
    ("bad escape", f'reply-keys: "{SECRET}\\qN3ver"', ["is not YAML: "]),
    ("webhook without its prefix", f"app-webhook: {SECRET}", ["1:14: the secret does not begin with whsec_"]),
    ("webhook that is not base64", f"app-webhook: whsec_{SECRET}", ["1:14: the secret is not base64 behind whsec_"]),
    ("webhook without padding", "app-webhook: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg",
     ["1:14: the secret is not base64 behind whsec_"]),
    ("webhook of 23 bytes", "app-webhook: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=",
     ["1:14: the secret is 23 bytes when decoded"]),
    ("webhook of 65 bytes", f"app-webhook: whsec_{'MDEy' * 21}MDE=", ["1:14: the secret is 65 bytes when decoded"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*row[1:], id=row[0]) for row in SECRET_FILES])
def test_a_mistake_in_the_secrets_file_shows_no_secret(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A problem in the secrets file names line and column, and nothing that stands there."""
    rest = "".join(line + "\n" for line in SECRETS.splitlines() if ":" in text and line.partition(":")[0] + ":" not in text)
    told = [problem for problem in problems(write(tmp_path, GOOD, f"{text}\n{rest}")) if problem.startswith("secrets.yml")]
    assert len(told) == 1, told
    assert expected[0] in told[0]
    for problem in problems(str(tmp_path / "gatepost.yml")):
        assert "N3ver" not in problem
        assert "MDEy" not in problem


def test_a_secret_that_two_sinks_name_is_told_once(tmp_path: Path) -> None:
    """One mistake in the secrets file is one problem, however many use it."""
    text = changed("{maildir: /var/mail/desk}", '{webhook: "https://app.example.com/box", secret: app-webhook}')
    (told,) = problems(write(tmp_path, text, SECRETS.replace(WEBHOOK, "nonsense")))
    assert told.startswith("secrets.yml:2:15: the secret does not begin with whsec_")


INLINE = [("key", "secret: reply-keys"), ("webhook", "secret: app-webhook")]


@pytest.mark.parametrize(("kind", "old"), INLINE)
@pytest.mark.parametrize("secret", [SECRET, "whsec_N3ver/MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz="])
def test_a_secret_in_the_wrong_file_is_not_shown(tmp_path: Path, kind: str, old: str, secret: str) -> None:
    """Somebody puts the secret itself into the configuration: the problem says where, not what."""
    assert kind
    (told,) = problems(write(tmp_path, changed(old, f"secret: {secret}")))
    assert "secret:" in told
    assert "N3ver" not in told


def test_secrets_rotate_newest_last(tmp_path: Path) -> None:
    """A list keeps its order; a webhook's secrets are decoded; 24 and 64 bytes are the ends of what it takes."""
    short, long = f"whsec_{'MDEy' * 8}", f"whsec_{'MDEy' * 21}MA=="
    settings = load(write(tmp_path, GOOD, f"reply-keys: ['{'old' * 11}', '{'new' * 11}']\napp-webhook: [{short}, {long}]\n"))
    assert settings.routes[0].keys is not None
    assert settings.routes[0].keys.secrets == (b"old" * 11, b"new" * 11)
    assert [len(secret) for secret in settings.sink("app").secrets] == [24, 64]


def test_the_length_of_a_key_secret_is_in_bytes(tmp_path: Path) -> None:
    """Sixteen letters of two bytes are the 32 bytes that HMAC-SHA256 wants."""
    settings = load(write(tmp_path, GOOD, SECRETS.replace(KEY, "ä" * 16)))
    assert settings.routes[0].keys is not None
    assert settings.routes[0].keys.secrets == ("ä".encode() * 16,)


def test_no_secrets_file_is_needed_where_nothing_names_one(tmp_path: Path) -> None:
    """Dedicated addresses into a Maildir need no secret; a file that `secrets:` names must be there all the same."""
    text = "routes: [{name: a, address: a@in.example.com, deliver: [b]}]\nsinks: {b: {maildir: /var/mail/a}}\n"
    assert load(write(tmp_path, text, None)).routes[0].keys is None
    (told,) = problems(write(tmp_path, text + "secrets: other.yml\n", None))
    assert told == "other.yml: cannot be read: No such file or directory"


MODES: list[tuple[str, str, int, str]] = [
    ("configuration for all to read", "gatepost.yml", 0o644, ""),
    ("configuration for nobody to write", "gatepost.yml", 0o444, ""),
    ("configuration for the group to write", "gatepost.yml", 0o664, "others may write to it (mode 0664): chmod go-w"),
    ("configuration for all to write", "gatepost.yml", 0o646, "others may write to it (mode 0646)"),
    ("secrets for the owner", "secrets.yml", 0o400, ""),
    ("secrets for the group to read", "secrets.yml", 0o640, "others may read or change the secrets in it (mode 0640)"),
    ("secrets for others to read", "secrets.yml", 0o604, "others may read or change the secrets in it (mode 0604)"),
    ("secrets for others to write", "secrets.yml", 0o602, "others may read or change the secrets in it (mode 0602)"),
    ("secrets for the group to run", "secrets.yml", 0o610, "others may read or change the secrets in it (mode 0610)"),
]


@pytest.mark.parametrize(("name", "mode", "fragment"), [pytest.param(*row[1:], id=row[0]) for row in MODES])
def test_modes(tmp_path: Path, name: str, mode: int, fragment: str) -> None:
    """A configuration that others may write to is refused, and secrets that others may do anything with."""
    path = write(tmp_path)
    (tmp_path / name).chmod(mode)
    if not fragment:
        load(path)
        return
    (told,) = problems(path)
    assert told.startswith(f"{name}: {fragment}")


def test_a_mode_comes_with_the_other_problems(tmp_path: Path) -> None:
    """Modes do not hide what else is wrong: the file as a whole first, then its lines, then the secrets."""
    path = write(tmp_path, changed("discard", "x"), SECRETS.replace(KEY, "short"))
    (tmp_path / "gatepost.yml").chmod(0o666)
    (tmp_path / "secrets.yml").chmod(0o666)
    assert [problem.partition(": ")[0] for problem in problems(path)] == [
        "gatepost.yml", "gatepost.yml:15:24", "secrets.yml", "secrets.yml:1:14"]  # fmt: skip


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """A folder, a FIFO that nobody writes to, a file that is not there, a name that is none: one problem, at once."""
    os.mkfifo(tmp_path / "fifo")
    for name, text in (
        (str(tmp_path), "is no regular file"),
        (str(tmp_path / "fifo"), "is no regular file"),
        ("/dev/null", "is no regular file"),
        (str(tmp_path / "none.yml"), "cannot be read: No such file or directory"),
        (str(tmp_path / "none" / "none.yml"), "cannot be read: No such file or directory"),
        (str(tmp_path / ("n" * 300)), "cannot be read: File name too long"),
        ("a\0b", "is no file name"),
        ("\ud800", "is no file name"),
        ("", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(name)
        (problem,) = caught.value.problems
        assert (problem.line, problem.text) == (0, text), name


def test_a_relative_name_is_meant_from_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems call the file as the caller does; the settings, and the secrets beside it, are by absolute path."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("gatepost.yml").file == str(tmp_path / "gatepost.yml")
    monkeypatch.chdir("/")
    write(tmp_path, changed("discard", "x"))
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ConfigError, match=f"^{tmp_path.name}/gatepost.yml:15:24: "):
        load(f"{tmp_path.name}/gatepost.yml")


def test_many_routes_load(tmp_path: Path) -> None:
    """Five hundred routes of one domain are compared with each other, and all are there."""
    routes = "".join(f"  - {{name: r{n}, address: r{n}@in.example.com, deliver: [b]}}\n" for n in range(500))
    settings = load(write(tmp_path, f"routes:\n{routes}sinks: {{b: {{maildir: /var/mail/a}}}}\n", None))
    assert len(settings.routes) == 500


def fenced(language: str) -> list[str]:
    """The fenced blocks of docs/configuration.md in that language."""
    blocks = DOCS.read_text().split("```")
    return [block.removeprefix(language + "\n") for block in blocks[1::2] if block.startswith(language + "\n")]


def test_the_page_s_example_loads(tmp_path: Path) -> None:
    """The first two blocks of docs/configuration.md are a whole configuration and its secrets: no problem, no warning."""
    config, secrets = fenced("yaml")[:2]
    settings, warnings = load_with_warnings(write(tmp_path, config, secrets))
    assert [str(warning) for warning in warnings] == []
    assert settings.routes
    assert settings.store == Settings.store


def test_the_page_names_every_setting() -> None:
    """docs/configuration.md has a row for each name that the schema knows, so that neither grows without the other."""
    from gatepost.config import key_schema, route_schema, schema, sink_schema

    page = DOCS.read_text()
    tables = [schema._top("/"), schema._milter, schema._lmtp, schema._limits, schema._timing, schema._parked, schema._parser,
              route_schema.SCREENING, route_schema.SENDER, route_schema.route_table("/"), key_schema.key_table("/"),
              sink_schema.sink_table("/")]  # fmt: skip
    names = {name for table in tables for name in table}
    assert sorted(name for name in names if f"`{name}`" not in page) == []
