"""DNS as the role mx leaves it: records to paste, records by update, mail domains that are refused; and a Postfix that serves others, its MX too.

Promises: what the play prints is put into a zone file as it is; every "nothing was changed" is held against the whole zone, or against the
host's files; what others have put at the same names is looked for at the end.
Never: leaves a record of its own behind.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

from gatepost.receiver import mint_key
from tests.lab.fixtures import PERSON, TSIG_NAME, read_secrets
from tests.lab.machine import wait_for
from tests.lab.places import ADDRESSES, HOST_DOMAIN
from tests.lab.post import REPLIES, new_mail
from tests.lab.scenario_beside import club_mail, files, serve

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.lab.course import Course

__all__ = ["dns"]

#: A zone that a person writes by hand, with an old mail host, an SPF of its own, and what a service wants to see there.
_BY_HAND: Final = "desk.example"
_PROOF: Final = '"proof=7c1f; for a service"'
_ZONE: Final = f"""\
$TTL 1
@ SOA dns.example.net. hostmaster.example.net. {{serial}} 60 60 3600 1
@ NS dns.example.net.
@ TXT {_PROOF}
"""
_OLD: Final = '@ MX 5 old\nold A 10.77.0.99\n@ TXT "v=spf1 mx ~all"\n'
#: A mail domain in the zone that takes updates.
_UPDATED: Final = f"desk.{HOST_DOMAIN}"
_LOGIN: Final = PERSON.partition("@")[2]
_HOST: Final = "r2"


def dns(course: Course) -> None:
    """Pasted, refused, wrong keys, updated, beside."""
    course.world.fresh(_HOST)
    zone = _zone(course)
    _pasted(course)
    _refused(course)
    _update(course, f"update add {_UPDATED}. 3600 TXT {_PROOF}")
    with_proof = _zone(course)
    _wrong_keys(course, with_proof)
    _updated(course, with_proof)
    _beside(course, with_proof)
    _update(course, f"update delete {_UPDATED}. TXT")
    course.expect("the zone at the end", _difference(zone, _zone(course)), ([], []))


# --- mode check -----------------------------------------------------------------------------------------------------------


def _pasted(course: Course) -> None:
    """What is missing is printed; pasted, it is what was missing."""
    told: dict[str, Any] = {"mx_mode": "check", "mx_domain": _BY_HAND, "gatepost_host": f"mx.{_BY_HAND}"}
    _serve(course, _OLD)
    played = course.controller.converge((_HOST,), "--tags", "mx", variables=told)
    text = _printed(played.output)
    course.expect("mode check: changed", played.recaps[_HOST].changed, 0)
    course.expect("mode check: records printed", _records(text), _wanted(_BY_HAND, f"mx.{_BY_HAND}", _HOST))
    wrong = [line.partition("remove: ")[2] for line in text.splitlines() if "remove: " in line]
    course.expect(
        "mode check: what must go",
        wrong,
        [f"{_BY_HAND}. 3600 IN MX 5 old.{_BY_HAND}.", f'{_BY_HAND}. 3600 IN TXT "v=spf1 mx ~all"'],
    )
    told["mx_check_fails"] = True
    course.expect("mode check, to fail where something is missing: exit status", _status(course, told), 2)
    _serve(course, text)  # the old lines gone, the new ones as they were printed
    played = course.controller.play((_HOST,), "--tags", "mx", variables=told)
    course.expect("pasted: exit status, what is missing", (played.status, _printed(played.output)), (0, ""))
    course.expect("pasted: MX", _ask(course, _BY_HAND, "MX"), [f"10 mx.{_BY_HAND}."])
    course.expect("pasted: TXT", _ask(course, _BY_HAND, "TXT"), sorted([_PROOF, '"v=spf1 -all"']))


def _serve(course: Course, records: str) -> None:
    """The zone with these lines at its end, and another serial."""
    guest = course.world.guest("dns")
    file = f"/var/lib/bind/{_BY_HAND}.zone"
    serial = int(re.search(r"hostmaster\.example\.net\. (\d+)", guest.read(file) or "hostmaster.example.net. 0")[1]) + 1  # type: ignore[index]
    guest.run("sh", "-c", f"cat >{file}", stdin=_ZONE.format(serial=serial) + records)
    guest.run("named-checkzone", _BY_HAND, file)
    if _BY_HAND not in guest.read("/etc/bind/named.conf"):
        line = f'zone "{_BY_HAND}" {{ type primary; file "{file}"; }};'
        guest.run("sh", "-c", "cat >>/etc/bind/named.conf", stdin=line + "\n")
    guest.run("rndc", "reload")
    wait_for(
        lambda: _ask(course, _BY_HAND, "SOA")[:1] == [f"dns.example.net. hostmaster.example.net. {serial} 60 60 3600 1"],
        what="the zone",
    )


def _printed(output: str) -> str:
    """What the play says is missing, as it stands there."""
    found = re.search(r"^; Missing or wrong in DNS\..*?\n(?=\n)", output, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def _records(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line and not line.startswith(";"))


def _wanted(domain: str, name: str, host: str) -> list[str]:
    """What a domain with this one host needs, as a zone file has it."""
    return sorted(
        (
            f"{name}. 3600 IN A {ADDRESSES[host].ipv4}",
            f"{name}. 3600 IN AAAA {ADDRESSES[host].ipv6}",
            f'{name}. 3600 IN TXT "v=spf1 a -all"',
            f"{domain}. 3600 IN MX 10 {name}.",
            f'{domain}. 3600 IN TXT "v=spf1 -all"',
            f'_dmarc.{domain}. 3600 IN TXT "v=DMARC1; p=reject;"',
            f'_smtp._tls.{domain}. 3600 IN TXT "v=TLSRPTv1; rua=mailto:{PERSON}"',
        )
    )


# --- refused --------------------------------------------------------------------------------------------------------------


def _refused(course: Course) -> None:
    """A domain with which people log in, before anything is done; and where somebody says that it may be."""
    guest = course.world.guest(_HOST)
    look = "dpkg-query -W; find /etc /opt /usr /var/lib /var/spool -xdev -type f -newer /root/mark ! -path '/var/lib/systemd/*'"
    guest.run("touch", "/root/mark")
    before = guest.run("sh", "-c", look)
    for what, domain, login, told in (
        ("it is one", _LOGIN, _LOGIN, {}),
        ("it contains one", "example.org", "corp.example.org", {"mx_login_domains": ["id.example.com", "corp.example.org"]}),
    ):
        played = course.controller.play((_HOST,), variables={"mx_domain": domain, **told})
        said = " ".join(played.output.split())
        course.expect(f"login domain, {what}: exit status, changed", (played.status, played.recaps[_HOST].changed), (2, 0))
        for words in (
            f"{domain} is, or contains, the login domain {login}.",
            "the ticket trick",
            f"as in.{login}",
            "mx_allow_login_domain",
        ):
            course.hold(f"login domain, {what}: {words!r}", words in said, f"the play says {played.output[-1500:]}")
        course.expect(f"login domain, {what}: packages and files of the host", guest.run("sh", "-c", look), before)
    allowed = {"mx_domain": _LOGIN, "mx_mode": "check", "mx_allow_login_domain": True}
    course.expect("login domain, allowed: exit status", _status(course, allowed), 0)


# --- mode update ----------------------------------------------------------------------------------------------------------


def _wrong_keys(course: Course, zone: Collection[str]) -> None:
    """The server refuses; the play says why, and shows no secret."""
    other = b64encode(b"another secret, of 32 octets....").decode()
    wrong = "the server does not know the key, the secret or its algorithm is wrong"
    for what, told, words in (
        ("another secret", {"mx_tsig_secret": other}, wrong),
        ("another name", {"mx_tsig_name": "nobody"}, wrong),
        ("another algorithm", {"mx_tsig_algorithm": "hmac-sha512"}, wrong),
        ("no base64", {"mx_tsig_secret": "%%%"}, "mx_tsig_secret base64"),
        ("no key", {"mx_tsig_name": "", "mx_tsig_secret": ""}, "the server does not let this key change these names"),
        ("half a key", {"mx_tsig_name": ""}, "mx_tsig_name and mx_tsig_secret together"),
    ):
        played = course.controller.play((_HOST,), "--tags", "mx", variables={"mx_domain": _UPDATED, **told})
        course.expect(f"{what}: exit status", played.status, 2)
        course.hold(f"{what}: the play says why", words in " ".join(played.output.split()), f"it says {played.output[-1500:]}")
        shown = [secret for secret in (other, read_secrets(course.world.places)["tsig"]) if secret in played.output]
        course.expect(f"{what}: secrets in what the play says", shown, [])
        course.expect(f"{what}: the zone", _difference(zone, _zone(course)), ([], []))


def _updated(course: Course, zone: Collection[str]) -> None:
    """--check shows it and changes nothing; then it is so, and what others have there stays; then it is gone."""
    told, wanted = {"mx_domain": _UPDATED}, _wanted(_UPDATED, f"{_HOST}.{HOST_DOMAIN}", _HOST)
    played = course.controller.converge((_HOST,), "--tags", "mx", "--check", "--diff", variables=told)
    shown = sorted(line[1:] for line in played.output.splitlines() if re.match(r"[+-](?![+-])", line))
    course.expect("update, --check --diff: lines", shown, wanted)
    course.expect("update, --check: changed", played.recaps[_HOST].changed, 1)
    course.expect("update, --check: the zone", _difference(zone, _zone(course)), ([], []))
    played = course.controller.converge((_HOST,), "--tags", "mx", variables=told)
    course.expect("update: changed", played.recaps[_HOST].changed, 1)
    course.expect("update: the zone", _difference(zone, _zone(course)), ([], wanted))
    played = course.controller.converge((_HOST,), "--tags", "mx", "--diff", variables=told)
    course.expect("update, second run: changed", played.recaps[_HOST].changed, 0)
    course.controller.converge((_HOST,), "--tags", "mx", variables={**told, "gatepost_state": "absent"})
    _none_of_host(course, _HOST)
    course.expect("update, after `absent`: the zone", _difference(zone, _zone(course)), ([], []))


def _none_of_host(course: Course, host: str) -> None:
    """A host's own records stay, as the README has it; here they go, all three."""
    gone = [f"update delete {host}.{HOST_DOMAIN}. {kind}" for kind in ("A", "AAAA", "TXT")]
    kinds = {line.split()[3] for line in _zone(course) if line.startswith(f"{host}.{HOST_DOMAIN}.")}
    course.expect(f"after `absent`: records of {host}'s own", kinds, {"A", "AAAA", "TXT"})
    _update(course, *gone)


# --- beside ---------------------------------------------------------------------------------------------------------------


def _beside(course: Course, zone: Collection[str]) -> None:
    """A Postfix that serves the club becomes the MX of our domain: strangers find it, the club's mail stays as it was, and all goes again."""
    host, guest = "other", course.world.guest("other")
    routes = [
        {**each, "address": each["address"].replace(HOST_DOMAIN, _UPDATED)}
        for each in course.controller.variables["gatepost_routes"]
    ]
    told = {"postfix_mode": "beside", "gatepost_domain": _UPDATED, "gatepost_routes": routes}
    course.world.fresh(host)
    serve(guest)
    before, plain = files(guest), club_mail(course, "before")
    course.controller.converge((host,), variables=told)
    course.expect("beside: the zone", _difference(zone, _zone(course)), ([], _wanted(_UPDATED, f"{host}.{HOST_DOMAIN}", host)))
    played = course.controller.converge((host,), "--tags", "mx", variables=told)
    course.expect("beside, second run of mx: changed", played.recaps[host].changed, 0)
    course.expect("beside: the club's mail", club_mail(course, "beside"), plain)
    address = REPLIES.replace(HOST_DOMAIN, _UPDATED)
    key = mint_key(
        address=address, secret=read_secrets(course.world.places)["reply-keys"], key_id="reply-keys", subject="order-5"
    )
    mail = new_mail(address.replace("%{key}", key))
    course.post.send(mail)
    fate = course.post.wait_fates(mail)[0]
    course.expect("beside: our mail, found by MX", (fate.status, fate.host), ("sent", host))
    course.expect("beside: our mail: copies at the app", len(course.post.wait_arrivals([mail])), 1)
    course.controller.converge((host,), variables={**told, "gatepost_state": "absent"})
    _none_of_host(course, host)
    course.expect("beside, after `absent`: the zone", _difference(zone, _zone(course)), ([], []))
    course.expect("beside, after `absent`: files in /etc/postfix", files(guest), before)


# --- the name server ------------------------------------------------------------------------------------------------------


def _zone(course: Course) -> list[str]:
    """Every record of the zone that takes updates, its serial left out; one blank between fields."""
    text = course.world.guest("dns").run("dig", "+noall", "+answer", "@127.0.0.1", HOST_DOMAIN, "AXFR")
    return sorted(" ".join(line.split()) for line in text.splitlines() if " SOA " not in " ".join(line.split()))


def _difference(before: Collection[str], after: Collection[str]) -> tuple[list[str], list[str]]:
    """What is gone, what is new."""
    return sorted(set(before) - set(after)), sorted(set(after) - set(before))


def _ask(course: Course, name: str, kind: str) -> list[str]:
    return sorted(course.world.guest("dns").run("dig", "+short", "@127.0.0.1", name, kind).splitlines())


def _update(course: Course, *lines: str) -> None:
    """As the zone's owner, with the key."""
    secret = read_secrets(course.world.places)["tsig"]
    text = "\n".join(("server 127.0.0.1", f"zone {HOST_DOMAIN}", *lines, "send")) + "\n"
    course.world.guest("dns").run("nsupdate", "-y", f"hmac-sha256:{TSIG_NAME}:{secret}", stdin=text)


def _status(course: Course, told: dict[str, Any]) -> int:
    return course.controller.play((_HOST,), "--tags", "mx", variables=told).status
