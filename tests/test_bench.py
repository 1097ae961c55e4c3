"""`make bench`: what it writes is what docs/bench.md explains, and a figure that misses its aim is seen to."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from bench import guessing, milter_rate, throughput, warm_rate
from bench.figures import FIGURES, Results, checked, table
from bench.guesses import KINDS, dead_keys, revoked_file
from bench.hostile_input import judge, read_everything
from bench.latency import percentile
from bench.lmtp_load import load, queue_id
from bench.place import like_gatepost
from bench.run import write
from bench.stage import forget_peak, letter, peak, resident
from bench.starts import import_split, run_once
from demo.postfix_instance import PostfixError
from gatepost.gateway import KEEP_ROWS
from gatepost.keys.keyring import check
from gatepost.queue_id import arrival, is_long
from gatepost.settings import KeySettings
from gatepost.stores.ledger import Ledger
from tests.hostile import HOSTILE
from tests.installation import install
from tests.lmtp_host import Serving, open_folder, wait_for

ROOT = Path(__file__).resolve().parent.parent

#: Of three rounds: a no-op, and what is compared with it in the same round.
RATES = {"noop": [400.0, 100.0, 300.0], "pipe_alone_maildir": [80.0, 30.0, 54.0], "pipe_alone": [60.0, 8.0, 48.0]}
SMALL, LARGE = throughput.SIZES


def some_results() -> Results:
    """A run's results: a number, or a text, for every figure."""
    return {figure.name: figure.limit or ("a text" if figure.name.endswith(("_input", "_pair")) else 1) for figure in FIGURES}


def test_the_page_explains_every_figure_and_no_other() -> None:
    """Each name of results.json has a row of its own in docs/bench.md, with its aim where it has one."""
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| (.+) \|$", (ROOT / "docs" / "bench.md").read_text()))
    assert list(rows) == [figure.name for figure in FIGURES]
    for figure in FIGURES:
        aim = rows[figure.name].partition("Aim: ")[2]
        assert aim == (f"{figure.aim} {figure.limit:g}" if figure.aim else ""), figure.name


def test_results_are_one_flat_object(tmp_path: Path) -> None:
    """Every name, in order, each with a number or a text; the file is whole, and nothing else is left in its folder."""
    file = write(checked(dict(reversed(some_results().items()))), tmp_path / "made")
    read = json.loads(file.read_text())
    assert list(read) == [figure.name for figure in FIGURES]
    assert all(type(value) in (int, float, str) for value in read.values())
    assert [each.name for each in file.parent.iterdir()] == ["results.json"]


WRONG: list[tuple[str, dict[str, object], str]] = [
    ("missing", {}, "a figure that was not measured must not pass for one"),
    ("unknown", {"rounds": 1, "speed": 1}, "a figure that the page does not explain"),
    ("nested", {"rounds": [1, 2]}, "not flat"),
    ("truth", {"rounds": True}, "a truth value is no number"),
]


@pytest.mark.parametrize("change", [row[1] for row in WRONG], ids=[row[0] for row in WRONG])
def test_other_results_are_an_error(change: dict[str, object]) -> None:
    """What is missing, unknown or not flat is not written."""
    results = {name: value for name, value in some_results().items() if name != "rounds"}
    with pytest.raises(ValueError, match=r"rounds|speed"):
        checked({**results, **change})  # type: ignore[dict-item]


AIMS = [
    ("pipe_alone_ratio", 0.0899, True), ("pipe_alone_ratio", 0.09, False), ("pipe_alone_maildir_ratio", 0.119, True),
    ("parser_worst_10x", 15.1, True), ("parser_worst_10x", 15, False), ("parser_slowest_seconds", 1.01, True),
    ("parser_peak_rss_mb", 151, True), ("script_peak_rss_mb", 150, False), ("parser_exceptions", 1, True),
    ("noop_per_second", 0, False), ("milter_ratio_new", 0.79, True), ("milter_ratio_kept", 0.8, False),
    ("pipe_thin_ratio", 0.349, True), ("lmtp_ratio", 0.8, False), ("lmtp_ratio", 0.79, True), ("rt_mailgate_ratio", 0, False),
    ("queue_to_app_p99_ms", 1001, True), ("in_flight_400_ratio", 0.79, True), ("in_flight_1_ratio", 0.1, False),
    ("ledger_rows_1000000_ratio", 0.79, True), ("large_message_webhook_times", 3.1, True), ("warm_memory_growth_mb", 5, False),
    ("guess_inside_area", 0.551, True), ("guess_socket_area", 0.55, False), ("milter_memory_growth_mb", 5.1, True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "missed"), AIMS, ids=[f"{row[0]}-{row[1]}" for row in AIMS])
def test_a_missed_aim_is_seen(name: str, value: float, missed: bool) -> None:
    """A ratio of ours below its aim, or a cost above it; what has no aim cannot miss it."""
    figure = next(each for each in FIGURES if each.name == name)
    assert figure.missed(value) is missed
    shown = next(line for line in table({**some_results(), name: value}).splitlines() if line.startswith(f"{name} "))
    assert ("MISSED" in shown) is missed


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    """A machine that was busy for one round must not set one pipe's figure against another's of a quiet one."""
    results = throughput.summary(RATES, SMALL)
    assert (results["rounds"], results["noop_per_second"], results["pipe_alone_per_second"]) == (3, 300.0, 48.0)
    assert [results[f"pipe_alone_ratio{which}"] for which in ("_lowest", "", "_highest")] == [0.08, 0.15, 0.16]
    assert [results[f"pipe_alone_maildir_ratio{which}"] for which in ("_lowest", "", "_highest")] == [0.18, 0.2, 0.3]
    large = throughput.summary(RATES, LARGE)
    assert (large["pipe_alone_ratio_1mb"], large["noop_per_second_1mb"], large["message_bytes_1mb"]) == (0.15, 300.0, 1_000_000)


def test_a_number_is_compared_with_its_base_of_the_same_round() -> None:
    """In flight and in the ledger alike; the base has no ratio of its own."""
    rates = {1: [50.0, 10.0, 40.0], 10: [100.0, 100.0, 400.0], 100: [90.0, 120.0, 200.0]}
    assert warm_rate.summary("in_flight", rates, base=10) == {
        "in_flight_1_per_second": 40.0, "in_flight_1_ratio": 0.1, "in_flight_10_per_second": 100.0,
        "in_flight_100_per_second": 120.0, "in_flight_100_ratio": 0.9,
    }  # fmt: skip


def test_what_a_part_measures_has_a_figure() -> None:
    """Every name that the rounds give is one of FIGURES: that one is missing must not come out after nine minutes."""
    every = {variant.figure: [1.0] for variant in throughput.VARIANTS}
    given = {name for size in throughput.SIZES for name in throughput.summary(every, size)}
    given |= warm_rate.summary("in_flight", {number: [1.0] for number in warm_rate.IN_FLIGHT}, base=10).keys()
    given |= warm_rate.summary("ledger_rows", {number: [1.0] for number in warm_rate.ROWS}, base=1).keys()
    names = {figure.name for figure in FIGURES}
    assert given <= names
    ours = re.compile(r"rounds|message_bytes|noop_per|pipe_|lmtp_|rt_mailgate_|in_flight_|ledger_rows_\d+_(per|ratio)")
    assert {name for name in names if ours.match(name)} == given


@pytest.mark.parametrize(("count", "percent", "expected"), [(100, 99, 99), (200, 99, 198), (1, 99, 1), (150, 50, 75)])
def test_a_percentile_is_the_time_that_so_many_do_not_exceed(count: int, percent: int, expected: int) -> None:
    """Nearest rank, in whatever order the times came."""
    assert percentile([float(value) for value in range(count, 0, -1)], percent) == expected


def test_turns_are_shared_evenly_by_the_clients() -> None:
    """A turn sends what it counts: the messages of every size and service are a multiple of the clients."""
    services = {variant.service for variant in throughput.VARIANTS}
    for size in throughput.SIZES:
        assert size.messages.keys() == services
        assert all(count % throughput.SESSIONS == 0 for count in size.messages.values())


def test_what_is_compared_is_our_own_service_with_another_command() -> None:
    """The same process limit, user, flags and time limit; only the name and the command differ, and the other services stay."""
    made = like_gatepost((ROOT / "postfix" / "master.cf").read_text().replace("@SERVICE@", "gatepost"), "noop", "/bin/true")
    assert [" ".join(line.split()) for line in made.splitlines()] == [
        "noop unix - n n - 10 pipe",
        "-o pipe_delivery_status_filter=regexp:@FOLDER@/status.regexp",
        "-o noop_time_limit=@TIME_LIMIT@s",
        "flags=Bq user=@USER@ null_sender=",
        "argv=/bin/true",
    ]
    with pytest.raises(ValueError, match="no service"):
        like_gatepost("other  unix  -  n  n  -  10  pipe\n    argv=x\n", "noop", "/bin/true")


def test_the_load_brings_every_message_as_postfix_does() -> None:
    """So many connections, a queue ID for each message: all are accepted and handed over, and a refusal ends the load."""
    with open_folder() as folder:
        serving = Serving(folder, more="after_queue: bounce\n")
        serving.start()
        try:
            to = [serving.made.address(serving.made.key(subject)) for subject in ("42", "43", "44")]
            taken = load(serving.path, to, letter(to[0], 2_000), at_once=4, count=25)
            assert len(taken) == 25
            assert all(seconds > 0 for seconds in taken)
            assert len(serving.maildir()) == 25
            accepted = [line for line in serving.made.log_lines() if " action=accept " in line]
            assert len({re.search(r" id=(\w+)", line)[1] for line in accepted}) == 25  # type: ignore[index]
            with pytest.raises(PostfixError, match=r"^550 5\.1\.1"):
                load(serving.path, ["reply+nobodys@in.example.com"], letter("x", 100), at_once=1, count=1)
        finally:
            serving.stop()


def test_a_queue_id_is_a_long_one_of_now_and_never_the_same() -> None:
    """The ledger takes its time for the arrival, and knows a message by it."""
    made = [queue_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert all(is_long(each) for each in made)
    assert abs((arrival(made[0]) or 0) - time.time()) < 60


def test_the_ledger_is_filled_with_what_is_done_and_partly_old(tmp_path: Path) -> None:
    """About a twentieth may go at once, and goes; the rest stays."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    ledger = Ledger.open(str(store))
    assert warm_rate.fill(store, 4_000) == 4_000
    gone = ledger.prune(time.time(), KEEP_ROWS, 4_000)
    assert 100 < gone < 300
    assert ledger.prune(time.time(), KEEP_ROWS, 4_000) == 0
    ledger.close()


def test_a_peak_is_of_what_came_after_it_was_forgotten() -> None:
    """50 MB that came and went count until `forget_peak`, and not after it."""
    code = "import sys; x = bytearray(50_000_000); del x; print(); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak(child.pid) > resident(child.pid) + 40_000_000
        forget_peak(child.pid)
        assert peak(child.pid) < resident(child.pid) + 5_000_000
        child.communicate(b"")


def test_a_milters_ratio_is_of_its_own_kind_of_connection() -> None:
    """Ours to the one that does nothing, that one to none, within a round; new and kept connections never meet."""
    rates = {
        "new": {"none": [900.0, 800.0], "idle": [450.0, 400.0], "ours": [360.0, 300.0]},
        "kept": {"none": [1000.0, 1000.0], "idle": [800.0, 600.0], "ours": [400.0, 480.0]},
    }
    for kind in rates.values():
        kind |= {"checking": [1.0, 1.0], "opendkim": [2.0, 2.0]}
    results = milter_rate.summary(rates)
    assert (results["milter_rounds"], results["milter_ours_new_per_second"], results["milter_none_kept_per_second"]) == (
        2,
        330.0,
        1000.0,
    )
    assert [results[f"milter_ratio_new{which}"] for which in ("_lowest", "", "_highest")] == [0.75, 0.775, 0.8]
    assert [results[f"milter_ratio_kept{which}"] for which in ("_lowest", "", "_highest")] == [0.5, 0.65, 0.8]
    assert (results["milter_idle_ratio_new"], results["milter_idle_ratio_kept"]) == (0.5, 0.7)


AREAS = [
    ("never longer", [1, 2, 3], [4, 5], 0.0),
    ("always longer", [9, 8], [1, 2, 3], 1.0),
    ("the same times: half of each tie", [5, 5, 5], [5, 5], 0.5),
    ("three of four pairs", [2, 4], [1, 3], 0.75),
    ("a tie and a longer one", [2, 3], [2], 0.75),
]


@pytest.mark.parametrize(("one", "other", "expected"), [row[1:] for row in AREAS], ids=[row[0] for row in AREAS])
def test_the_area_says_how_likely_one_time_is_the_longer(one: list[int], other: list[int], expected: float) -> None:
    """The share of all pairs, a tie counting half (Mann and Whitney's U over the number of pairs)."""
    assert guessing.area(one, other) == expected


def test_the_pair_that_is_told_apart_best_is_named() -> None:
    """Whichever of the two is the slower one; chance is 0.5, and less than that is the same pair turned round."""
    times = {"unknown": [10, 20, 30], "forged": [12, 22, 28], "expired": [1, 2, 3]}
    assert guessing.worst_pair(times) == (1.0, "unknown, expired")


def test_dead_keys_are_what_they_are_called() -> None:
    """Each kind is refused by its own rule, and all have one length: that a text is long is no secret of ours."""
    secret = b"a secret of the benchmark's tests"
    keys = dead_keys(5, secret=secret, key_id="reply-keys", domain="in.example.com")
    settings = KeySettings(format="signed", key_id="reply-keys", secrets=(secret,))
    revoked = revoked_file(keys["revoked"], secret=secret, key_id="reply-keys").encode()
    found = {kind: {check(settings, key, "in.example.com", now=time.time(), revoked=revoked).result for key in each}
             for kind, each in keys.items()}  # fmt: skip
    assert found == {kind: {kind} for kind in KINDS}
    assert len({len(key) for each in keys.values() for key in each}) == 1


def test_the_parsers_figures_are_of_the_whole_way_to_a_verdict(tmp_path: Path) -> None:
    """A hostile message is read and judged: a live key's is accepted, whatever stands in it."""
    made = install(tmp_path)
    to = made.address(made.key())
    one, ten = (HOSTILE["content-type-semicolons"](scale) for scale in (1, 10))
    assert read_everything(one, made.settings, to) == "accept"
    short, long = judge(lambda: read_everything(one, made.settings, to), lambda: read_everything(ten, made.settings, to))
    assert short > 0
    assert long > 0
    (tmp_path / "input").write_bytes(ten)
    script = str(ROOT / "bench" / "hostile_input.py")
    done = subprocess.run([sys.executable, "-I", script, str(made.config), to, str(tmp_path / "input")], capture_output=True,
                          check=True, text=True, timeout=60)  # fmt: skip
    assert int(done.stdout) > 5_000, "an interpreter alone has more than 5 MB"


def test_a_run_that_fails_is_no_figure(tmp_path: Path) -> None:
    """A script that ended with another status than 0 was not measured."""
    message = tmp_path / "message"
    message.write_bytes(b"a: b\n\n\n")
    assert run_once(["/bin/sh", "-c", "exec cat >/dev/null"], str(message)) > 0
    with pytest.raises(RuntimeError, match="status 75: cannot"):
        run_once(["/bin/sh", "-c", "cat >/dev/null; echo cannot; exit 75"], str(message))


def test_the_split_names_what_an_import_costs() -> None:
    """-X importtime, in three groups and the dearest modules."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import json, gatepost.value"
    own, ours, others, dearest = import_split(sys.executable, code)
    assert "the interpreter's start" in own
    assert "gatepost (2 modules)" in ours
    assert "others (" in others
    assert "json" in dearest


@pytest.fixture
def app(tmp_path: Path) -> Iterator[int]:
    """The port of an app of the test's own."""
    port_file = tmp_path / "port"
    with subprocess.Popen([sys.executable, "-I", str(ROOT / "bench" / "app.py"), str(port_file)]) as process:
        try:
            wait_for(lambda: process.poll() is not None or port_file.exists(), "the app")
            yield int(port_file.read_text())
        finally:
            process.kill()


def test_the_app_takes_webhooks_over_one_connection_and_counts(app: int) -> None:
    """204 once it has the whole body, and the connection stays; the count is how a round knows that every message arrived."""
    with closing(HTTPConnection("127.0.0.1", app, timeout=10)) as kept:
        kept.connect()
        sock = kept.sock
        for body in (b"x" * 300_000, b"", b"y"):
            kept.request("POST", "/mail", body)
            answer = kept.getresponse()
            assert (answer.status, answer.read()) == (204, b"")
        kept.request("GET", "/count")
        assert int(kept.getresponse().read()) == 3
        assert kept.sock is sock


def test_the_app_says_ok_to_rt_mailgate_and_closes_where_it_is_asked_to(app: int) -> None:
    """rt-mailgate takes anything else for a fault; its library closes after each request."""
    with socket.create_connection(("127.0.0.1", app), timeout=10) as mailgate, mailgate.makefile("rb") as said:
        mailgate.sendall(
            b"POST /REST/1.0/NoAuth/mail-gateway HTTP/1.1\r\nConnection: TE, close\r\nContent-Length: 7\r\n\r\nmessage"
        )
        lines = said.read().splitlines()
    assert (lines[0], lines[-1]) == (b"HTTP/1.1 200 OK", b"ok")


def test_the_app_tells_when_each_webhook_came(app: int) -> None:
    """By its id and by this machine's steady clock, to whoever watches."""
    address = ("127.0.0.1", app)
    with socket.create_connection(address, timeout=10) as watcher, watcher.makefile("rb") as stream:
        watcher.sendall(b"GET /arrivals HTTP/1.1\r\n\r\n")
        while stream.readline().strip():
            pass
        before = time.monotonic()
        with closing(HTTPConnection(*address, timeout=10)) as client:
            for id_ in ("one", "two"):
                client.request("POST", "/mail", b"x", {"webhook-id": id_})
                client.getresponse().read()
        told = [stream.readline().split() for _ in range(2)]
    assert [each[0] for each in told] == [b"one", b"two"]
    assert before - 1e-3 <= float(told[0][1]) <= float(told[1][1]) <= time.monotonic()


def test_the_app_takes_nothing_whose_length_it_does_not_know(app: int) -> None:
    """Such a request is no message: the connection ends, nothing is counted, and the app goes on."""
    with socket.create_connection(("127.0.0.1", app), timeout=10) as chunked:
        chunked.sendall(b"POST /mail HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            assert chunked.recv(1) == b""
    with urlopen(f"http://127.0.0.1:{app}/count", timeout=10) as answer:
        assert int(answer.read()) == 0
