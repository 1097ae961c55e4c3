"""`make bench`: what it writes is what docs/bench.md explains, and a figure that misses its aim is seen to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bench import guessing, milter_rate
from bench.figures import FIGURES, Results, checked, table
from bench.guesses import KINDS, dead_keys, revoked_file
from bench.hostile_input import judge, read_everything
from bench.run import write
from bench.starts import import_split, run_once
from bench.throughput import summary
from gatepost.keys.keyring import check
from gatepost.settings import KeySettings
from tests.hostile import HOSTILE
from tests.installation import install

ROOT = Path(__file__).resolve().parent.parent

RATES = {"noop": [400.0, 100.0, 300.0], "maildir": [80.0, 30.0, 54.0], "webhook": [60.0, 8.0, 48.0]}


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
    results = summary(RATES)
    assert (results["rounds"], results["noop_per_second"], results["pipe_alone_per_second"]) == (3, 300.0, 48.0)
    assert [results[f"pipe_alone_ratio{which}"] for which in ("_lowest", "", "_highest")] == [0.08, 0.15, 0.16]
    assert [results[f"pipe_alone_maildir_ratio{which}"] for which in ("_lowest", "", "_highest")] == [0.18, 0.2, 0.3]


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


def test_the_app_takes_a_webhook_and_counts(tmp_path: Path) -> None:
    """204 once it has the whole body; the count is how a round knows that every message arrived."""
    port_file = tmp_path / "port"
    with subprocess.Popen([sys.executable, "-I", str(ROOT / "bench" / "app.py"), str(port_file)]) as app:
        try:
            while not port_file.exists():
                assert app.poll() is None
                time.sleep(0.01)
            url = f"http://127.0.0.1:{port_file.read_text()}"
            for _ in range(2):
                with urlopen(Request(f"{url}/mail", data=b"x" * 300_000), timeout=10) as answer:
                    assert answer.status == 204
            with urlopen(f"{url}/count", timeout=10) as answer:
                assert int(answer.read()) == 2
        finally:
            app.kill()
