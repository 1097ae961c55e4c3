"""`gatepost doctor --chain` on a finished host, and with one hop broken after another.

Promises: the hop that was broken is the one that FAILs, and no other hop of the chain; what was broken is mended before the next.
Never: breaks a hop by its settings where it can be broken as it breaks in the wild.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.lab.fixtures import TSIG_NAME, read_secrets
from tests.lab.machine import wait_for
from tests.lab.places import ADDRESSES, HOST_DOMAIN

if TYPE_CHECKING:
    from tests.lab.course import Course

__all__ = ["chain", "update_zone"]

_HOPS: Final = (f"chain-mx:{HOST_DOMAIN}", "chain-port", "chain-certificate", "chain-relay", "chain-bad-key", "chain-probe")


def chain(course: Course) -> None:
    """Whole, then MX elsewhere, Postfix stopped, the milter stopped, the app stopped."""
    found = _asked(course)
    # A certificate that nobody has signed is a warning: most senders look no further.
    course.expect(
        "a finished host: the chain",
        {name: found.get(name) for name in _HOPS},
        {**dict.fromkeys(_HOPS, "ok"), "chain-certificate": "warn"},
    )
    course.expect("a finished host: FAILs", [name for name, status in found.items() if status == "FAIL"], [])
    for what, hop, broken in (
        ("MX elsewhere", f"chain-mx:{HOST_DOMAIN}", _mx_elsewhere(course)),
        ("Postfix stopped", "chain-port", _stopped(course, "mx1", "postfix", 25)),
        # Nothing is taken then; the checks of the milter itself say why.
        ("the milter stopped", "chain-bad-key", _stopped(course, "mx1", "gatepost-milter")),
        ("the app stopped", "chain-probe", _stopped(course, "app", "app", 443)),
    ):
        with broken:
            found = _asked(course)
        course.expect(f"{what}: hops that FAIL", [name for name in _HOPS if found.get(name) == "FAIL"], [hop])
        milter = [name for name, status in found.items() if name.startswith("milter") and status == "FAIL"]
        course.expect(f"{what}: the milter's own checks FAIL", bool(milter), what == "the milter stopped")
    wait_for(lambda: course.post.worked_off("mx1"), timeout=240, every=2, what="the probe that waited for the app")


def _asked(course: Course) -> dict[str, str]:
    text = course.world.guest("mx1").try_run("/opt/gatepost/current/bin/gatepost", "doctor", "--chain", "--json", timeout=180)
    return {each["name"]: each["status"] for line in text.splitlines() if line.startswith("{") for each in (json.loads(line),)}


@contextmanager
def _stopped(course: Course, host: str, unit: str, port: int = 0) -> Iterator[None]:
    guest = course.world.guest(host)
    guest.stop_unit(unit, port)
    try:
        yield
    finally:
        guest.start_unit(unit, port)


@contextmanager
def _mx_elsewhere(course: Course) -> Iterator[None]:
    """As if somebody had moved the domain: by the zone's own way to be changed."""
    update_zone(course, f"update delete {HOST_DOMAIN}. MX", f"update add {HOST_DOMAIN}. 1 MX 10 sender.example.net.")
    try:
        yield
    finally:
        back = [
            f"update add {HOST_DOMAIN}. 300 MX {10 * place} {name}.{HOST_DOMAIN}."
            for place, name in enumerate(("mx1", "mx2"), 1)
        ]
        update_zone(course, f"update delete {HOST_DOMAIN}. MX", *back)


def update_zone(course: Course, *lines: str) -> None:
    """Changes our domain's records, by a signed update."""
    key = f"key hmac-sha256:{TSIG_NAME} {read_secrets(course.world.places)['tsig']}"
    script = "\n".join([f"server {ADDRESSES['dns'].ipv4}", f"zone {HOST_DOMAIN}.", key, *lines, "send", ""])
    course.world.guest("dns").run("nsupdate", stdin=script)
