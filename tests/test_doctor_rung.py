"""Which rung of the ladder a Postfix is on, told from its settings alone. A real one is asked in tests/integration/test_doctor.py."""

from __future__ import annotations

import pytest

from gatepost.doctor.postfix_instance import Instance, parse_service
from gatepost.doctor.wired import ways
from gatepost.settings import LmtpSettings, ParkedLimits, ParserLimits, Route, Screening, Settings, Timing

SOCKET = "/var/spool/postfix/gatepost/lmtp.sock"
PIPE = "{name} unix - n n - 10 pipe flags=Bq user=gatepost argv=/p/python -I /g/gatepost_filter/pipe.py --config=/c"
SERVICES = (
    PIPE.format(name="gatepost"),
    PIPE.format(name="slim") + f" --socket={SOCKET} --fallback=local",
    "gatepost-lmtp unix - - n - 20 lmtp",
    "gatepost-lmtp inet - - n - 20 lmtp",
    "local unix - n n - - local",
    "script unix - n n - - pipe user=nobody argv=/bin/cat",
)


def settings(*, lmtp: bool) -> Settings:
    """With one route."""
    route = Route(name="support", address="support@in.example.com", screening=Screening(), deliver=("app",))
    return Settings(
        file="/c", routes=(route,), timing=Timing(), parked=ParkedLimits(), parser=ParserLimits(), sinks=(),
        lmtp=LmtpSettings(socket=f"unix:{SOCKET}") if lmtp else None,
    )  # fmt: skip


RUNGS: list[tuple[str, bool, str, str]] = [
    # virtual_transport, whether there is lmtp:, the rung, why
    ("gatepost:", True, "pipe", "the script"),
    ("gatepost", True, "pipe", "without a colon it is the same"),
    ("slim:", True, "thin", "the script with a socket, whatever the service is called"),
    ("slim:", False, "thin", "the configuration may have changed since: that is another check's"),
    ("gatepost-lmtp:unix:gatepost/lmtp.sock", True, "lmtp", "below the queue folder"),
    (f"gatepost-lmtp:unix:{SOCKET}", True, "lmtp", "the whole path"),
    ("gatepost-lmtp:unix:gatepost/lmtp.sock", False, "", "there is no warm process"),
    ("gatepost-lmtp:unix:dovecot/lmtp.sock", True, "", "another LMTP server"),
    ("gatepost-lmtp:", True, "", "no socket at all"),
    ("local:", True, "", "Postfix's own"),
    ("script:", True, "", "another script"),
    ("nowhere:", True, "", "no such service"),
    ("", True, "", "nothing"),
]


@pytest.mark.parametrize(("transport", "lmtp", "rung"), [row[:3] for row in RUNGS], ids=[row[3] for row in RUNGS])
def test_the_rung_is_told_by_what_the_service_does(transport: str, lmtp: bool, rung: str) -> None:
    """Not by its name, and not by what the configuration would have."""
    instance = Instance(
        folder="/etc/postfix", parameters={"virtual_transport": transport, "queue_directory": "/var/spool/postfix"},
        services=tuple(map(parse_service, SERVICES)), overrides={}, complaints=(),
    )  # fmt: skip
    (way,) = ways(instance, settings(lmtp=lmtp))
    assert (way.rung, way.transport, way.setting) == (rung, transport, "virtual_transport")
