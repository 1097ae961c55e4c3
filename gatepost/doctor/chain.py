"""`--chain`: the way of a message to this host, hop by hop (DNS, port 25, TLS, relaying, a key), and a probe that walks it.

Promises: the hop that fails is named, with what to do; what comes behind it is `unknown`, not a second fault. One message at
most is sent, to a key that is made for it, valid for a day; the store knows its token, so that gatepost takes it for nothing
but a probe: a webhook is told `gatepost.probe`, a Maildir or program gets nothing. Every look ends by itself.
Never: sends mail to another host; says what only another host can see: who asks here has not come through the firewall.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from ipaddress import ip_address

from gatepost.doctor.check import fail, not_used, ok, unknown, warn
from gatepost.doctor.milter_dialogue import bad_key, first_route, is_refusal
from gatepost.doctor.smtp_dialogue import Dialogue, SmtpError
from gatepost.doctor.wired import domains
from gatepost.errors import StoreError
from gatepost.frozen import thaw
from gatepost.keys.outgoing import domain_of, fill
from gatepost.keys.signed import mint, today
from gatepost.mail.message import PROBE
from gatepost.mail.recipient import recipient
from gatepost.stores.ledger import Ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from gatepost.authentication.resolver import Questions as DnsQuestions
    from gatepost.doctor.check import Question, Questions, Verdict
    from gatepost.doctor.subject import Subject
    from gatepost.settings import Route
    from gatepost.stores.ledger import Row

__all__ = ["questions"]

_PORT: Final = 25
#: Seconds, and questions, for all of DNS.
_DNS: Final = 20.0
_DNS_QUESTIONS: Final = 200
#: Seconds that the probe has from the queue to the app: an app that hangs has 10 before it counts as not well.
_ARRIVES: Final = 60.0
_LOOK_AGAIN: Final = 0.25
#: Days before a certificate's end in which a person should look: an ACME client renews with 30 left.
_ENDS_SOON: Final = 14
#: A domain that nobody may have (RFC 2606 3): whoever takes mail for it takes mail for all.
_FOREIGN: Final = "gatepost-doctor@relay-test.example.net"


class _Hop(Exception):  # noqa: N818  what it says, not an error of the program
    """The way ends here, or could not be looked at: the verdict says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.evidence)
        self.verdict = verdict


class _Way:
    """What was found so far; a later hop stands on the earlier ones."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        #: The MX that is this host, and its addresses that answered.
        self.mx = ""
        self.addresses: tuple[str, ...] = ()
        self.answers: list[str] = []
        self.enforced = False
        #: Nobody's mail was taken, and that is the fault of a hop before the probe.
        self.shut = False
        self._dns: DnsQuestions | None = None

    def dns(self) -> DnsQuestions:
        """DNS as the milter asks it, else as the system does."""
        if self._dns is None:
            try:
                from gatepost.authentication.resolver import Resolver
            except ImportError as error:
                raise _Hop(unknown(f"DNS cannot be asked: {error}", "pip install 'gatepost[milter]'")) from error
            milter = self.subject.sound.milter
            self._dns = Resolver(milter.dns if milter is not None else ()).questions(time.monotonic() + _DNS, _DNS_QUESTIONS)
        return self._dns


def questions(subject: Subject) -> Questions:
    """The hops in the order in which a message meets them; none where `--chain` was not asked for."""
    if not subject.chain:
        return ()
    way = _Way(subject)
    found: Questions = tuple((f"chain-mx:{domain}", _hop(lambda domain=domain: _mx(way, domain)))  # type: ignore[misc]
                             for domain in domains(subject.sound))  # fmt: skip
    return (
        *found,
        ("chain-port", _hop(lambda: _port(way))),
        ("chain-certificate", _hop(lambda: _certificate(way))),
        ("chain-relay", _hop(lambda: _relay(way))),
        ("chain-bad-key", _hop(lambda: _refuses(way))),
        ("chain-probe", subject.as_owner(_hop(lambda: _probe(way)))),
    )


def _hop(question: Question) -> Question:
    def asked() -> Verdict:
        try:
            return question()
        except _Hop as end:
            return end.verdict

    return asked


# --- DNS ------------------------------------------------------------------------------------------------------------------


def _mx(way: _Way, domain: str) -> Verdict:
    """Does the domain's mail come to this host."""
    dns, host = way.dns(), _me(way)
    from gatepost.authentication.resolver import Unanswered  # only now: where it is missing, `dns` has said what to install

    mend = f"publish in DNS: {domain}. IN MX 10 {host}."
    try:
        found = dns.ask(domain, "MX")
        records = sorted(each for each in found.records if isinstance(each, tuple))
        if records == [(0, "")]:
            return fail(f"{domain}: its MX is `.`: the domain says that it takes no mail (RFC 7505)", mend)
        if not records:
            why = "there is no MX" if found.exists else "there is no such domain in DNS"
            return fail(f"{domain}: {why}: no mail comes here", mend)
        names = [name for _, name in records]
        for name in names:
            addresses = _addresses(way, name)
            if any(_is_ours(address) for address in addresses) or name == host.lower():
                if not addresses:
                    return fail(f"{domain}: its MX {name} has no address", f"publish in DNS: {name}. IN A ADDRESS")
                way.mx, way.addresses = name, addresses
                way.enforced = way.enforced or _policy(way, domain)
                beside = ", ".join(each for each in names if each != name)
                others = f"; beside it {beside}: each host has a ledger, limits and parked mail of its own" if beside else ""
                return ok(f"{domain}: MX {name}, which is {' and '.join(addresses)}{others}")
    except Unanswered as silence:
        return unknown(f"{domain}: DNS does not answer ({silence})", "see /etc/resolv.conf, and `milter.dns` if it is set")
    return fail(f"{domain}: its MX is {', '.join(names)}, and none of them is this host ({host}): mail goes elsewhere", mend)


def _addresses(way: _Way, name: str) -> tuple[str, ...]:
    dns = way.dns()
    return tuple(str(each) for kind in ("A", "AAAA") for each in dns.ask(name, kind).records)


def _policy(way: _Way, domain: str) -> bool:
    """Does the domain speak of MTA-STS (RFC 8461 3.1)? Then senders may insist on the certificate."""
    return any(text.startswith(b"v=STSv1") for text in way.dns().ask(f"_mta-sts.{domain}", "TXT").texts)


def _is_ours(address: str) -> bool:
    """Whether some interface of this host has it."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


# --- the connection -------------------------------------------------------------------------------------------------------


def _arrived(way: _Way) -> str:
    """The first address that answered."""
    if not way.answers:
        raise _Hop(unknown("this host was not reached at its MX", "mend that first"))
    return way.answers[0]


def _port(way: _Way) -> Verdict:
    """Port 25 of every address that the MX has."""
    if not way.mx:
        return unknown("no domain's MX is this host", "mend that first")
    silent = []
    for address in way.addresses:
        try:
            with Dialogue(address, _PORT) as dialogue:
                dialogue.expect("", "220")
                dialogue.said("QUIT")
            way.answers.append(address)
        except (OSError, SmtpError) as error:
            silent.append(f"{address}: {getattr(error, 'strerror', None) or error}")
    if silent:
        listening = "postconf inet_interfaces inet_protocols; ss -ltn 'sport = :25'; the firewall"
        return fail(f"{way.mx} port {_PORT}: {'; '.join(silent)}: senders that try there wait", f"look at: {listening}")
    answered = " and ".join(way.answers)
    return ok(f"{way.mx}: {answered} at port {_PORT}, asked from this host: a firewall is met by others alone")


def _certificate(way: _Way) -> Verdict:
    """TLS, and whether the certificate is good for the MX's name."""
    address, name = _arrived(way), way.mx
    context = ssl.create_default_context()
    try:
        with Dialogue(address, _PORT) as dialogue:
            dialogue.expect("", "220")
            if not any("STARTTLS" in line[4:].upper().split() for line in dialogue.lines(f"EHLO {_me(way)}")):
                return warn(
                    f"{name}: offers no STARTTLS: mail comes in the clear", "smtpd_tls_security_level = may, a certificate"
                )
            ends = dialogue.starttls(context, name)
            dialogue.said("QUIT")
    except ssl.SSLCertVerificationError as error:
        said = f"{name}: its certificate is not good for that name: {error.verify_message}"
        mend = "have an ACME client fetch one: ansible/README.md, postfix_tls"
        if way.enforced:
            return fail(f"{said}; the domain has an MTA-STS policy: senders that heed it do not deliver", mend)
        return warn(f"{said}: senders deliver all the same, for SMTP's TLS is opportunistic", mend)
    days = int((ends - time.time()) // 86_400)
    if days < _ENDS_SOON:
        return warn(f"{name}: its certificate ends in {days} days", "see why it is not renewed")
    return ok(f"{name}: TLS, a certificate that is good for the name, and for {days} days")


def _me(way: _Way) -> str:
    return way.subject.host or socket.getfqdn()


def _reply(way: _Way, address: str) -> tuple[str, bool]:
    """What RCPT for an address is answered, from the null reverse-path; where MAIL was not taken what that was, and False."""
    with Dialogue(_arrived(way), _PORT) as dialogue:
        dialogue.hello(_me(way))
        reply = dialogue.said("MAIL FROM:<>")
        begun = reply.startswith("250")
        if begun:
            reply = dialogue.said(f"RCPT TO:<{address}>")
        dialogue.said("QUIT")
        return reply, begun


def _relay(way: _Way) -> Verdict:
    """Is a foreign domain's mail refused."""
    try:
        reply, begun = _reply(way, _FOREIGN)
    except (OSError, SmtpError) as error:
        return unknown(f"{_FOREIGN}: {error}")
    if not begun:
        return unknown(f"MAIL FROM:<>: {reply}: nobody's mail is taken, whoever it is for", "see chain-bad-key and chain-probe")
    if reply.startswith("5"):
        return ok(f"{_FOREIGN}: {reply}")
    if reply.startswith("4"):
        return warn(f"{_FOREIGN}: {reply}: strangers' mail is put off, not refused: it comes again for days",
                    "smtpd_relay_restrictions = reject_unauth_destination")  # fmt: skip
    return unknown(
        f"{_FOREIGN}: {reply}: this host itself may relay (mynetworks); whether strangers may, postfix-relay says",
        "ask from another host: swaks --server THIS --to that address --quit-after RCPT",
    )


def _refuses(way: _Way) -> Verdict:
    """Is a key that nobody has refused while the sender is connected."""
    route = first_route(way.subject.sound)
    if way.subject.sound.milter is None:
        return not_used("there is no milter: a bad key is refused behind the queue")
    if route is None:
        return not_used("no route has keys that gatepost checks by itself")
    address = bad_key(route)
    try:
        reply, begun = _reply(way, address)
    except (OSError, SmtpError) as error:
        return unknown(f"{address}: {error}")
    if not begun:
        way.shut = True
        return fail(
            f"MAIL FROM:<>: {reply}: no mail is taken, whatever its key",
            "so says Postfix where it cannot ask a milter: gatepost doctor, milter-reachable; else the mail log has the reason",
        )
    if is_refusal(reply):
        return ok(f"{address}: {reply}")
    return fail(
        f"{address}: {reply}: a made-up key is not refused at RCPT",
        "is the milter asked? gatepost doctor --probe, milter-probe",
    )


# --- the probe ------------------------------------------------------------------------------------------------------------


def _probe(way: _Way) -> Verdict:
    """One message to a fresh key, through SMTP and the queue, to the app."""
    if way.shut:
        return unknown("no mail is taken", "mend that first")
    address, route = _arrived(way), _route(way.subject)
    domain = domain_of(route.address)
    keys = route.keys
    assert keys is not None  # _route looked
    key = mint(secret=keys.secrets[-1], key_id=keys.key_id, domain=domain, subject=b"doctor", expires=today(time.time()) + 1)
    to, token = fill(route.address, key), os.urandom(16).hex()
    ledger = Ledger.open(way.subject.sound.store)
    try:
        ledger.expect(token, recipient=recipient(to).final_form, now=time.time())
        queue_id = _sent(way, address, to, token)
        row = _seen(ledger, queue_id)
        return _judged(way, ledger, route, queue_id, token, row)
    except StoreError as error:
        return fail(f"the store: {error}", "mend that first")
    finally:
        ledger.close()


def _route(subject: Subject) -> Route:
    """A route that a key can be made for, and whose app need not know it; one with a webhook first."""
    fit = [
        route
        for route in subject.sound.routes
        if route.keys is not None and route.keys.format == "signed" and route.keys.ask is None and "%{key}" in route.address
    ]
    if not fit:
        raise _Hop(unknown("no route has signed keys that the app need not know: nobody can make a key for a probe",
                           "send a message to a real address, and look for it: grep QUEUEID in the mail log"))  # fmt: skip
    return min(fit, key=lambda route: not _told(subject, route))


def _told(subject: Subject, route: Route) -> bool:
    """Does the route's first sink get probes."""
    sink = subject.sound.sink(route.deliver[0])
    return sink.kind == "webhook" and sink.format != "raw"


def _sent(way: _Way, address: str, to: str, token: str) -> str:
    """Hands the probe to Postfix; its queue ID."""
    host = _me(way)
    content = (
        f"From: gatepost doctor <postmaster@{host}>\r\nTo: <{to}>\r\nSubject: a probe by gatepost doctor\r\n"
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', time.gmtime())}\r\nMessage-ID: <{token[:12]}.probe@{host}>\r\n"
        f"Auto-Submitted: auto-generated\r\n{PROBE}: {token}\r\n\r\nNo message: whoever reads this has found a fault.\r\n."
    )
    try:
        with Dialogue(address, _PORT) as dialogue:
            dialogue.hello(host)
            dialogue.expect("MAIL FROM:<>", "250")
            dialogue.expect(f"RCPT TO:<{to}>", "250")
            dialogue.expect("DATA", "354")
            reply = dialogue.said(content)
            dialogue.said("QUIT")
    except (OSError, SmtpError) as error:
        raise _Hop(fail(f"SMTP, {_shown(to)}: {_shown(str(error), to)}: mail does not get in", "see the mail log")) from error
    if not reply.startswith("250"):
        raise _Hop(fail(f"SMTP, the end of the message: {reply}", "see the mail log, and gatepost's own"))
    return reply.rpartition(" ")[2]


def _shown(text: str, to: str = "") -> str:
    """Without the key, which would work for a day."""
    address = to or text
    local, _, domain = address.rpartition("@")
    return text.replace(address, f"{local[:8]}...@{domain}")


def _seen(ledger: Ledger, queue_id: str) -> Row:
    """The probe's row, once it is done with; as it stands where it is not in time."""
    until = time.monotonic() + _ARRIVES
    row = None
    while time.monotonic() < until:
        row = next(iter(ledger.rows(queue_id=queue_id)), None)
        if row is not None and row.state == "done":
            return row
        if row is not None and row.attempts and not row.lease_until:
            raise _Hop(fail(f"{queue_id}: gatepost has it, and deferred it: the app did not take it",
                            f"grep {queue_id} in gatepost's log: rule= and detail= say why"))  # fmt: skip
        time.sleep(_LOOK_AGAIN)
    if row is None or not row.attempts:
        raise _Hop(fail(f"{queue_id}: Postfix has it, and has not handed it to gatepost in {_ARRIVES:.0f} s",
                        f"postqueue -p; grep {queue_id} in the mail log"))  # fmt: skip
    raise _Hop(fail(f"{queue_id}: gatepost has had it for {_ARRIVES:.0f} s, and the app does not answer",
                    f"is the app well? grep {queue_id} in gatepost's log"))  # fmt: skip


def _judged(way: _Way, ledger: Ledger, route: Route, queue_id: str, token: str, row: Row) -> Verdict:
    """What the ledger says of it."""
    decision = thaw(row.outcome)
    if decision.rule != "probe":
        return fail(f"{queue_id}: was not taken for a probe: {decision.action} rule={decision.rule}",
                    "does another process of another version, or another store, judge the mail? gatepost doctor")  # fmt: skip
    ledger.expect_no_more(token)
    sink = route.deliver[0]
    if not _told(way.subject, route):
        return ok(f"{queue_id}: came through SMTP and the queue to route {route.name}; its sink {sink} gets no probes")
    return ok(f"{queue_id}: came through SMTP, the queue and route {route.name} to {sink}, which took it")
