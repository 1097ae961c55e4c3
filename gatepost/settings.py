"""The configuration as values: what every other module is given.

Promises: built from a plain tree (dicts, lists, text, numbers) that `config` has checked; the same tree gives equal
settings, so a compiled copy of the tree serves as well as the file. Durations are seconds, sizes bytes.
Never: reads a file, fills a default that `config` did not check, or holds a path that is not absolute.
"""

from __future__ import annotations

from gatepost.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Literal

    ScreeningAction = Literal["accept", "reject", "discard", "park"]
    AfterQueue = Literal["bounce-verified", "bounce", "park", "discard"]
    MustMatch = Literal["", "reject", "park", "flag"]

__all__ = [
    "DISCOVERY",
    "USUAL_LIMITS",
    "Ask",
    "KeySettings",
    "LimitSettings",
    "LmtpSettings",
    "MilterSettings",
    "ParkedLimits",
    "ParserLimits",
    "Route",
    "Screening",
    "Settings",
    "Sink",
    "Timing",
    "from_tree",
]


#: The fields that name recipients, in the order in which they are asked. To first: it is what the sender wrote. Then what
#: hosts on the way wrote of the envelope's recipient (Delivered-To: qmail, Postfix, Gmail; Envelope-To: Exim; X-Original-To:
#: Postfix; X-Gm-Original-To: Gmail's routing), every `for` of Received (RFC 5321 4.4), and last what says least (RFC 5322
#: 3.6.6; Apparently-To: sendmail, RFC 2076 3.18).
DISCOVERY: Final = (
    "To", "Delivered-To", "X-Delivered-To", "Envelope-To", "X-Envelope-To", "Received", "X-Original-To", "X-Forwarded-To",
    "X-Gm-Original-To", "Resent-To", "Resent-Cc", "Cc", "Apparently-To",
)  # fmt: skip


class ParserLimits(Value):
    """How much of a message's head is looked at. Past a limit the message goes on with a flag; nothing is lost."""

    #: All header fields together. Postfix cuts a head only by message_size_limit; real heads are below 64 KiB.
    header_bytes: int = 1_048_576
    #: Number of fields. Long mailing-list and forwarding chains reach about 150.
    header_fields: int = 2_000
    #: One field with its folds. Postfix's header_size_limit is 102,400.
    field_bytes: int = 102_400
    #: Addresses read from one address field; the recipients of a company-wide mail fit.
    addresses: int = 1_000
    #: Parameters read from one Content-Type; real ones have under ten.
    parameters: int = 100
    #: Message-IDs read from References; RFC 5322 sets no limit, threads of 200 exist.
    references: int = 500
    #: Received fields after which a message is taken to loop; Postfix's hopcount_limit is 50.
    received: int = 50


class Timing(Value):
    """Seconds. deadline < lease, or two runs could hand over at once; give_up_after < maximal_queue_lifetime."""

    deadline: float = 120.0
    lease: float = 180.0
    give_up_after: float = 4 * 86_400.0

    @property
    def queue_lifetime(self) -> float:
        """How long a message may be in Postfix's queue (maximal_queue_lifetime): our wiring's value, at least Postfix's 5 days.

        Longer than give_up_after by time for a run at maximal_backoff_time, and for a person.
        """
        return max(5 * 86_400.0, self.give_up_after + 86_400.0)


class ParkedLimits(Value):
    """Caps of parked mail: age in seconds, bytes in all, and the share of the disk (percent) that must stay free."""

    max_age: float = 30 * 86_400.0
    max_bytes: int = 1_073_741_824
    min_free_percent: float = 5.0


class Screening(Value):
    """What to do with each family of findings."""

    automatic: ScreeningAction = "discard"
    loops: ScreeningAction = "discard"
    bounces: ScreeningAction = "discard"
    lists: ScreeningAction = "accept"
    spam: ScreeningAction = "reject"
    malformed: ScreeningAction = "accept"
    unauthenticated: ScreeningAction = "accept"


#: A person writes none of these; a loop or a flood passes the first within a minute, a slow one the last.
USUAL_LIMITS: Final[tuple[tuple[int, float], ...]] = ((50, 60.0), (120, 300.0), (600, 3_600.0))


class LimitSettings(Value):
    """How many messages may pass: windows of a count (at least 1) and seconds; () is no limit.

    Nothing is limited where the configuration has no `limits:`; there, key and sender have the usual ones by default.
    """

    per_key: tuple[tuple[int, float], ...] = ()
    per_sender: tuple[tuple[int, float], ...] = ()
    per_route: tuple[tuple[int, float], ...] = ()


class Ask(Value):
    """Where the app says whether a key is alive. `secrets`: HMAC keys, decoded, oldest first; every one signs."""

    url: str
    secrets: tuple[bytes, ...] = ()
    ca_file: str = ""


class KeySettings(Value):
    """Which keys a route takes.

    Of signed keys: `secrets` are UTF-8 bytes, oldest first; the newest signs, any verifies. Of other apps' keys: `kinds` that
    the route takes (none named: all), the `pattern`'s expression, the `file` of a list; `unchecked`: that a made-up key may
    pass; `ask`: who knows whether it is. `revoked`: a file of either.
    """

    format: Literal["signed", "gitlab", "zulip", "pattern", "list"] = "signed"
    secret: str = ""
    key_id: str = ""
    secrets: tuple[bytes, ...] = ()
    former_domains: tuple[str, ...] = ()
    revoked: str = ""
    kinds: tuple[str, ...] = ()
    pattern: str = ""
    file: str = ""
    unchecked: bool = False
    ask: Ask | None = None


class Route(Value):
    """An address, which keys it takes, its rules and its sinks (names; the first must have the message).

    `allow`, `deny`: senders as `screening.senders` reads them; no `allow` lets everybody in.
    """

    name: str
    address: str
    keys: KeySettings | None = None
    screening: Screening
    must_match: MustMatch = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    deliver: tuple[str, ...]


class Sink(Value):
    """Where an accepted message goes. `target`: a URL for a webhook, an absolute folder for a Maildir, a command's program.

    `argv`: a command's words, the absolute path of the program first; no part of a message is ever put into them.
    `secrets`: a webhook's HMAC keys, decoded, oldest first; every one signs. `ca_file`: PEM, "" = the system's. `at_once`:
    messages that it has in hand at once, of all workers of the warm process together.
    """

    name: str
    kind: Literal["webhook", "maildir", "command"]
    target: str
    format: Literal["json", "raw"] = "json"
    confirm: bool = False
    ca_file: str = ""
    argv: tuple[str, ...] = ()
    secrets: tuple[bytes, ...] = ()
    #: Half of what our wiring lets Postfix bring at once: a sink that hangs leaves the other half to the others.
    at_once: int = 10


class MilterSettings(Value):
    """The door at SMTP time. `socket`: `unix:/PATH` or `inet:PORT@HOST`, as libmilter writes it.

    `authserv_id`: this host's name in the results that it writes (RFC 8601 2.5), lower case. `authenticate`: which methods are
    checked; () asks no DNS. `dns`: `ADDRESS:PORT` of resolvers; () is the system's. `dns_deadline`: seconds for all look-ups of
    a message together. `default_action`: what Postfix does with mail while the milter is down.
    """

    socket: str
    authserv_id: str
    authenticate: tuple[str, ...] = ("spf", "dkim", "dmarc", "arc")
    dns: tuple[str, ...] = ()
    dns_deadline: float = 10.0
    default_action: Literal["tempfail", "accept"] = "tempfail"


class LmtpSettings(Value):
    """The warm process (`gatepost serve`): LMTP on a Unix socket. `socket`: `unix:/PATH`.

    `wiring`: what `gatepost postfix` prints: `lmtp`, Postfix speaks to the socket itself; `thin`, Postfix runs the script, and
    that does; `pipe`, the script does the whole job. `fallback`: what the thin script does where nobody answers there.
    `workers`: processes. `max_messages`, `max_bytes`: in flight in all of them; what comes beyond is deferred. `peers`: users
    who may deliver, beside root and whoever runs the process. `idle`: seconds that a client may be silent.
    """

    socket: str
    wiring: Literal["lmtp", "thin", "pipe"] = "lmtp"
    fallback: Literal["local", "defer"] = "local"
    workers: int = 2
    #: Postfix's default_process_limit: it never brings more at once.
    max_messages: int = 100
    #: Ten times the message_size_limit of our wiring.
    max_bytes: int = 268_435_456
    peers: tuple[str, ...] = ("postfix",)
    idle: float = 300.0


class Settings(Value):
    """One configuration file, whole."""

    file: str
    trusted: tuple[str, ...] = ()
    routes: tuple[Route, ...]
    timing: Timing
    after_queue: AfterQueue = "bounce-verified"
    parked: ParkedLimits
    parser: ParserLimits
    discovery: tuple[str, ...] = DISCOVERY
    sinks: tuple[Sink, ...]
    limits: LimitSettings = LimitSettings()
    milter: MilterSettings | None = None
    lmtp: LmtpSettings | None = None
    store: str = "/var/lib/gatepost"
    log: str = "syslog"

    def sink(self, name: str) -> Sink:
        """The sink of that name; KeyError where there is none (config has checked that there is)."""
        for sink in self.sinks:
            if sink.name == name:
                return sink
        raise KeyError(name)

    def route(self, name: str) -> Route | None:
        """The route of that name, or None (a route may have gone since a message was parked)."""
        for route in self.routes:
            if route.name == name:
                return route
        return None


def from_tree(tree: dict[str, Any]) -> Settings:
    """Settings from the tree that `config` made: keys as the fields above, nested, tuples as lists or tuples.

    Raises TypeError or KeyError for a tree of another version; callers take that for a stale compiled copy.
    """
    routes = []
    for route in tree["routes"]:
        keys = route["keys"]
        routes.append(
            Route(
                **{
                    **route,
                    "keys": keys
                    and KeySettings(
                        **{
                            **keys,
                            "secrets": tuple(keys["secrets"]),
                            "former_domains": tuple(keys["former_domains"]),
                            "kinds": tuple(keys["kinds"]),
                            "ask": keys["ask"] and Ask(**{**keys["ask"], "secrets": tuple(keys["ask"]["secrets"])}),
                        }
                    ),
                    "screening": Screening(**route["screening"]),
                    "allow": tuple(route["allow"]),
                    "deny": tuple(route["deny"]),
                    "deliver": tuple(route["deliver"]),
                }
            )
        )
    return Settings(
        **{
            **tree,
            "trusted": tuple(tree["trusted"]),
            "discovery": tuple(tree["discovery"]),
            "routes": tuple(routes),
            "limits": LimitSettings(
                **{name: tuple((count, seconds) for count, seconds in windows) for name, windows in tree["limits"].items()}
            ),
            "milter": _milter(tree["milter"]),
            "lmtp": tree["lmtp"] and LmtpSettings(**{**tree["lmtp"], "peers": tuple(tree["lmtp"]["peers"])}),
            "timing": Timing(**tree["timing"]),
            "parked": ParkedLimits(**tree["parked"]),
            "parser": ParserLimits(**tree["parser"]),
            "sinks": tuple(
                Sink(**{**sink, "secrets": tuple(sink["secrets"]), "argv": tuple(sink["argv"])}) for sink in tree["sinks"]
            ),
        }
    )


def _milter(tree: dict[str, Any] | None) -> MilterSettings | None:
    if tree is None:
        return None
    return MilterSettings(**{**tree, "authenticate": tuple(tree["authenticate"]), "dns": tuple(tree["dns"])})
