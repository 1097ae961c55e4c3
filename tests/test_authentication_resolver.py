"""DNS: what an answer is, what a failure is, how long both last (RFC 1035, 2308)."""

from __future__ import annotations

import threading
import time

import pytest

from demo.dns_server import NONSENSE, REFUSED, SERVFAIL, SILENT, DnsServer
from gatepost.authentication.cache import AnswerCache
from gatepost.authentication.resolver import Answer, Resolver, TooManyQuestions, Unanswered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatepost.authentication.resolver import Type

SOA = "ns.example.org. h.example.org. 1 2 3 4 {}"


def soon(seconds: float = 20.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@pytest.mark.parametrize(("zone", "name", "kind", "exists", "records"), [
    ({"a.org": {"A": ["192.0.2.1", "192.0.2.2"]}}, "A.org.", "A", True, {"192.0.2.1", "192.0.2.2"}),
    ({"a.org": {"AAAA": ["2001:db8::1"]}}, "a.org", "AAAA", True, {"2001:db8::1"}),
    ({"a.org": {"MX": ["10 Mx.A.org"]}}, "a.org", "MX", True, {(10, "mx.a.org")}),
    ({"1.2.0.192.in-addr.arpa": {"PTR": ["H.a.org"]}}, "1.2.0.192.in-addr.arpa", "PTR", True, {"h.a.org"}),
    ({"a.org": {"TXT": ["x" * 600]}}, "a.org", "TXT", True, {b"x" * 600}),
    ({"a.org": {"A": ["192.0.2.1"]}}, "a.org", "TXT", True, set()),
    ({"b.a.org": {"A": ["192.0.2.1"]}}, "a.org", "TXT", True, set()),
    ({"a.org": {"A": ["192.0.2.1"]}}, "b.a.org", "A", False, set()),
    ({"a.org": {"CNAME": ["b.org"]}, "b.org": {"TXT": ["x"]}}, "a.org", "TXT", True, {b"x"}),
    ({"a.org": {"CNAME": ["b.org"]}}, "a.org", "TXT", False, set()),
    ({}, "a..org", "TXT", False, set()),
    ({}, "a" * 64 + ".org", "TXT", False, set()),
    ({}, ".".join(["a" * 60] * 6), "TXT", False, set()),
    ({}, "\udcff.org", "TXT", False, set()),
    ({"a\\b.org": {}}, "x\0y.org", "TXT", False, set()),
], ids=["A", "AAAA", "MX", "PTR", "TXT in three strings", "another type", "only names below", "NXDOMAIN", "CNAME",
        "CNAME to nothing", "empty label", "long label", "long name", "no text", "NUL"])  # fmt: skip
def test_an_answer(zone: dict[str, dict[str, list[str]]], name: str, kind: Type, exists: bool, records: set[object]) -> None:
    """What stands there, that nothing does, that the name does not exist; a text that is no name does not exist."""
    with DnsServer(zone) as server:
        found = Resolver((server.address,)).ask(name, kind, soon())
    assert (found.exists, set(found.records)) == (exists, records)


@pytest.mark.parametrize("fault", [SERVFAIL, REFUSED, NONSENSE, SILENT])
def test_a_failure_is_no_answer(fault: str) -> None:
    """SERVFAIL, REFUSED, nonsense and silence say nothing about the name, and are over when the deadline is."""
    with DnsServer({"a.org": {"TXT": [fault]}}) as server, pytest.raises(Unanswered):
        Resolver((server.address,)).ask("a.org", "TXT", soon(0.3))


def test_a_server_that_is_not_there_is_no_answer() -> None:
    """Nothing listens: no answer, at the deadline."""
    with DnsServer() as server:
        gone = server.address
    with pytest.raises(Unanswered):
        Resolver((gone,)).ask("a.org", "TXT", soon(0.3))


def test_no_time_is_no_answer() -> None:
    """A deadline that has passed asks nobody."""
    with DnsServer({"a.org": {"TXT": ["x"]}}) as server:
        with pytest.raises(Unanswered):
            Resolver((server.address,)).ask("a.org", "TXT", time.monotonic() - 1)
        assert server.count() == 0


def test_the_second_server_answers_for_the_first() -> None:
    """One server is broken, the other answers."""
    with DnsServer({"a.org": {"TXT": [SERVFAIL]}}) as broken, DnsServer({"a.org": {"TXT": ["x"]}}) as sound:
        assert Resolver((broken.address, sound.address)).ask("a.org", "TXT", soon()).texts == (b"x",)


@pytest.mark.parametrize("zone", [{"a.org": {"TXT": ["x" * 5_000]}}, {"a.org": {"TXT": [f"{n}" for n in range(1_000)]}}],
                         ids=["5,000 octets", "1,000 records"])  # fmt: skip
def test_a_cut_answer_is_asked_for_over_tcp(zone: dict[str, dict[str, list[str]]]) -> None:
    """What does not fit into UDP comes whole over TCP."""
    with DnsServer(zone) as server:
        found = Resolver((server.address,)).ask("a.org", "TXT", soon())
        assert [transport for _, _, transport in server.queries] == ["udp", "tcp"]
    assert sum(len(each) for each in found.texts) == sum(len(each) for each in zone["a.org"]["TXT"])


def test_a_server_that_always_cuts() -> None:
    """UDP answers that say that they are cut, with nothing in them: TCP has the answer."""
    with DnsServer({"a.org": {"TXT": ["x"]}}, truncate=True) as server:
        assert Resolver((server.address,)).ask("a.org", "TXT", soon()).texts == (b"x",)


def test_a_cname_that_the_server_leaves_to_us() -> None:
    """A server that does not follow a CNAME itself is asked for its target."""
    with DnsServer({"a.org": {"CNAME": ["b.other"]}}, follow=False) as server:
        server.add({"b.other": {"CNAME": ["c.other"]}, "c.other": {"TXT": ["x"]}})
        assert Resolver((server.address,)).ask("a.org", "TXT", soon()).texts == (b"x",)


@pytest.mark.parametrize("follow", [True, False])
def test_a_loop_of_cnames_ends(follow: bool) -> None:
    """Two names that point at each other: no answer, after a bounded number of questions."""
    with DnsServer({"a.org": {"CNAME": ["b.org"]}, "b.org": {"CNAME": ["a.org"]}}, follow=follow) as server:
        with pytest.raises(Unanswered):
            Resolver((server.address,)).ask("a.org", "TXT", soon(5))
        assert server.count() <= 20


def test_an_answer_is_kept() -> None:
    """The second question is not asked, in another case neither; of an answer that there is none, the same."""
    with DnsServer({"a.org": {"TXT": ["x"]}}) as server:
        resolver = Resolver((server.address,))
        for name in ("a.org", "A.ORG", "a.org.", "b.org", "b.org"):
            resolver.ask(name, "TXT", soon())
        assert [name for name, _, _ in server.queries] == ["a.org", "b.org"]


@pytest.mark.parametrize(("zone", "seconds"), [
    ({"a.org": {"TXT": ["x"], "TTL": ["120"]}}, 120), ({"a.org": {"TXT": ["x"], "TTL": ["0"]}}, 0),
    ({"a.org": {"TXT": ["x"], "TTL": ["999999"]}}, 3600), ({"a.org": {"SOA": [SOA.format(30)], "TTL": ["500"]}}, 30),
    ({"a.org": {"SOA": [SOA.format(99999)], "TTL": ["99999"]}}, 300), ({"a.org": {"A": ["192.0.2.1"]}}, 60),
    ({"a.org": {"CNAME": ["b.org"], "TTL": ["40"]}, "b.org": {"TXT": ["x"], "TTL": ["900"]}}, 40),
], ids=["its time", "not at all", "an hour at most", "none: the SOA's", "none: five minutes at most", "none, no SOA: a minute",
        "the shortest of a chain"])  # fmt: skip
def test_how_long_an_answer_is_kept(zone: dict[str, dict[str, list[str]]], seconds: int) -> None:
    """The time to live, within bounds."""

    class Seen(AnswerCache):
        until = 0.0

        def put(self, question: tuple[str, str], answer: Answer, until: float) -> None:
            self.until = until

    cache = Seen()
    with DnsServer(zone) as server:
        before = time.monotonic()
        Resolver((server.address,), cache=cache).ask("a.org", "TXT", soon())
    assert seconds == 0 == cache.until or before + seconds <= cache.until <= time.monotonic() + seconds


def test_a_failure_is_not_kept() -> None:
    """SERVFAIL now, an answer later: the later question gets it."""
    with DnsServer({"a.org": {"TXT": [SERVFAIL]}}) as server:
        resolver = Resolver((server.address,))
        with pytest.raises(Unanswered):
            resolver.ask("a.org", "TXT", soon())
        server.add({"a.org": {"TXT": ["x"]}})
        assert resolver.ask("a.org", "TXT", soon()).texts == (b"x",)


def test_one_message_asks_a_failed_question_once() -> None:
    """Within a message what was not answered is not asked again, by no part of it."""
    with DnsServer({"a.org": {"TXT": [SERVFAIL]}}) as server:
        questions = Resolver((server.address,)).questions(soon(), 10)
        for part in (questions.part(0.5, 5), questions.part(0.5, 5)):
            with pytest.raises(Unanswered):
                part.ask("a.org", "TXT")
        assert server.count() == 1


def test_questions_run_out() -> None:
    """After its number a part asks no more."""
    with DnsServer() as server:
        questions = Resolver((server.address,)).questions(soon(), 10).part(1.0, 3)
        for number in range(3):
            questions.ask(f"n{number}.org", "TXT")
        with pytest.raises(TooManyQuestions):
            questions.ask("more.org", "TXT")
        assert server.count() == 3


def answer(octets: int) -> Answer:
    """An answer of that size."""
    return Answer(exists=True, records=(b"x" * octets,), octets=octets)


def test_the_cache_forgets_the_least_used() -> None:
    """Past the number of entries the one goes that was not asked for longest."""
    cache = AnswerCache(entries=3)
    for name in "abc":
        cache.put((name, "A"), answer(1), 100.0)
    assert cache.get(("a", "A"), 0.0) is not None
    cache.put(("d", "A"), answer(1), 100.0)
    assert [name for name in "abcd" if cache.get((name, "A"), 0.0) is not None] == ["a", "c", "d"]


def test_the_cache_counts_octets() -> None:
    """Large answers push others out; one that is larger than a tenth is not kept; what is replaced is not counted twice."""
    cache = AnswerCache(entries=1_000, octets=100_000)
    for number in range(200):
        cache.put((f"n{number % 50}", "TXT"), answer(5_000), 100.0)
        assert cache.octets <= 100_000
    assert 10 < len(cache) < 20
    cache.put(("huge", "TXT"), answer(20_000), 100.0)
    assert cache.get(("huge", "TXT"), 0.0) is None


def test_the_cache_forgets_what_is_past_its_time() -> None:
    """At the moment it is over, the answer is gone, and its octets with it."""
    cache = AnswerCache()
    cache.put(("a", "A"), answer(1), 10.0)
    assert cache.get(("a", "A"), 9.9) is not None
    assert cache.get(("a", "A"), 10.0) is None
    assert (len(cache), cache.octets) == (0, 0)


def test_threads_share_a_resolver() -> None:
    """Twenty threads ask for the same and for different names: each gets its own answer."""
    wrong: list[str] = []
    with DnsServer({f"n{number}.org": {"TXT": [f"text {number}"]} for number in range(10)}) as server:
        resolver = Resolver((server.address,))

        def ask() -> None:
            found = [(number, resolver.ask(f"n{number}.org", "TXT", soon()).texts) for number in range(10)]
            wrong.extend([f"n{number}" for number, texts in found if texts != (f"text {number}".encode(),)])

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]", "[::1]:53"])
def test_a_server_has_many_forms(server: str) -> None:
    """Addresses of both kinds, with and without a port."""
    Resolver((server,))


@pytest.mark.parametrize("server", ["dns.example.org", "127.0.0.1:x", "", "[::1", "300.1.1.1"])
def test_a_server_that_is_no_address(server: str) -> None:
    """A name is refused: it would need DNS itself."""
    with pytest.raises(ValueError, match="DNS server"):
        Resolver((server,))
