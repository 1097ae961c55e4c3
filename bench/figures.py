"""The figures of `make bench`: each with its name, its unit, what it is, and its aim where there is one.

Promises: what a run writes has exactly these names (`checked` sees to that before it is written); docs/bench.md explains each
of them (tests/test_bench.py).
Never: measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FIGURES", "Figure", "Results", "checked", "table"]

#: What a run writes: one flat object.
Results = dict[str, int | float | str]


@dataclass(frozen=True)
class Figure:
    """One figure. `aim`: "at least" or "at most" `limit`; "" where it is only reported."""

    name: str
    what: str
    unit: str = ""
    aim: str = ""
    limit: float = 0.0

    def missed(self, value: float | str) -> bool:
        """Does this value miss the aim?"""
        if not self.aim or isinstance(value, str):
            return False
        return value < self.limit if self.aim == "at least" else value > self.limit


#: What Postfix hands its messages to: the start of its figures' names, what it is, and the aim of its ratio at 5 kB.
_VARIANTS: Final = (
    ("pipe_alone", "the pipe script alone, webhook", 0.09),
    ("pipe_alone_maildir", "the pipe script alone, Maildir", 0.12),
    ("pipe_thin", "the thin pipe script, webhook", 0.35),
    ("pipe_thin_maildir", "the thin pipe script, Maildir", 0.0),
    ("lmtp", "LMTP, webhook", 0.8),
    ("lmtp_maildir", "LMTP, Maildir", 0.0),
    ("rt_mailgate", "Debian's rt-mailgate", 0.0),
)


def _throughput(suffix: str, size: str) -> Iterator[Figure]:
    """Of messages of one size."""
    yield Figure(f"rounds{suffix}", f"rounds of all that take messages, {size}")
    yield Figure(f"message_bytes{suffix}", "size of a message's body", "bytes")
    yield Figure(f"noop_per_second{suffix}", f"messages a second, {size}, a shell pipe that does nothing", "/s")
    for name, what, limit in _VARIANTS:
        yield Figure(f"{name}_per_second{suffix}", f"messages a second, {size}, {what}", "/s")
        if limit and not suffix:
            yield Figure(f"{name}_ratio", "the same against the no-op", aim="at least", limit=limit)
        else:
            yield Figure(f"{name}_ratio{suffix}", "the same against the no-op")
        if not suffix:
            yield Figure(f"{name}_ratio_lowest", "the same, worst round")
            yield Figure(f"{name}_ratio_highest", "the same, best round")


def _queue_to_app(name: str, load: str) -> Iterator[Figure]:
    """Of one load."""
    yield Figure(f"{name}_per_second", f"messages a second, {load}", "/s")
    yield Figure(f"{name}_median_ms", "from the client's last octet to the app, median", "ms")
    yield Figure(f"{name}_p99_ms", "the same, 99 of 100", "ms", "at most", 1_000)


def _against(name: str, number: int, what: str, *, base: int, aimless: tuple[int, ...] = ()) -> Iterator[Figure]:
    """The ratio to the base, which has none."""
    if number in aimless:
        yield Figure(name, what)
    elif number != base:
        yield Figure(name, what, aim="at least", limit=0.8)


FIGURES: Final = (
    Figure("measured_at", "when the run began (UTC)"),
    Figure("gatepost_version", "what was measured"),
    Figure("machine_cores", "processors this process may use"),
    Figure("machine_load", "load average of the minute before: of others, at the start of a run"),
    Figure("machine_python", "version of the interpreter that runs the pipe script"),
    Figure("machine_postfix", "version of Postfix"),
    # messages a second through Postfix
    Figure("sessions", "SMTP clients at once"),
    *_throughput("", "5 kB"),
    *_throughput("_1mb", "1 MB"),
    # from Postfix's queue to the app
    Figure("queue_to_app_sessions", "SMTP clients at once, LMTP rung, webhook"),
    Figure("queue_to_app_messages", "messages of each load"),
    *_queue_to_app("queue_to_app", "at a given rate"),
    *_queue_to_app("queue_to_app_closed", "one under way for each client"),
    # the warm process
    Figure("warm_rounds", "rounds of each number in flight, and of each ledger"),
    Figure("warm_messages", "messages in each turn at the warm process's socket"),
    *(
        figure
        for number in (1, 10, 100, 400)
        for figure in (
            Figure(f"in_flight_{number}_per_second", f"messages a second with {number} in flight", "/s"),
            *_against(f"in_flight_{number}_ratio", number, "the same against 10", base=10, aimless=(1,)),
        )
    ),
    *(
        figure
        for number in (1, 10_000, 1_000_000)
        for figure in (
            Figure(f"ledger_rows_{number}_per_second", f"messages a second, rows in the ledger: {number:,}", "/s"),
            *_against(f"ledger_rows_{number}_ratio", number, "the same against 1 row", base=1),
        )
    ),
    Figure("ledger_rows_1_longest_ms", "the longest that one message took with 1 row", "ms"),
    Figure("ledger_rows_1000000_longest_ms", "the same with 1,000,000 rows, of which each message deletes old ones", "ms"),
    Figure("warm_memory_messages", "messages to one warm process; 100,000 with FULL=1"),
    Figure("warm_memory_half_mb", "memory of its workers after half of them", "MB"),
    Figure("warm_memory_last_mb", "the same after all of them", "MB"),
    Figure("warm_memory_growth_mb", "the difference", "MB", "at most", 5),
    Figure("large_message_webhook_times", "memory that a message of 10 MB takes, in its size: webhook", aim="at most", limit=3),
    Figure("large_message_maildir_times", "the same: Maildir", aim="at most", limit=3),
    # the milter
    Figure("milter_rounds", "rounds of all doors, on new connections and then on kept ones"),
    Figure("milter_messages", "messages in each round, for each door and kind of connection"),
    *(
        Figure(f"milter_{door}_{kind}_per_second", f"messages a second on {kind} connections, {what}", "/s")
        for kind in ("new", "kept")
        for door, what in (
            ("none", "no milter"),
            ("idle", "a pymilter that does nothing"),
            ("ours", "gatepost, no DNS asked"),
            ("checking", "gatepost, the sender authenticated"),
            ("opendkim", "opendkim"),
        )
    ),
    *(
        figure
        for kind in ("new", "kept")
        for figure in (
            Figure(f"milter_idle_ratio_{kind}", f"the one that does nothing against none, {kind} connections"),
            Figure(f"milter_ratio_{kind}", "gatepost against the one that does nothing", aim="at least", limit=0.8),
            Figure(f"milter_ratio_{kind}_lowest", "the same, worst round"),
            Figure(f"milter_ratio_{kind}_highest", "the same, best round"),
        )
    ),
    Figure("milter_memory_first_mb", "memory of the milter after 1,000 messages", "MB"),
    Figure("milter_memory_last_mb", "memory of the milter after 20,000", "MB"),
    Figure("milter_memory_growth_mb", "the difference", "MB", "at most", 5),
    # key guessing
    Figure("guesses", "refused keys of each of four kinds, timed in two ways"),
    Figure("guess_inside_area", "how well two kinds are told apart: area under the curve", aim="at most", limit=0.55),
    Figure("guess_inside_pair", "the pair that is told apart best, the slower one first"),
    Figure("guess_socket_area", "the same by the answer to RCPT", aim="at most", limit=0.55),
    Figure("guess_socket_pair", "that pair"),
    # one run
    Figure("start_noop_ms", "one run of the shell no-op", "ms"),
    Figure("start_bare_ms", "one start of `python -I` that does nothing", "ms"),
    Figure("start_imports_ms", "the same with every import of a message for a Maildir", "ms"),
    Figure("start_maildir_ms", "one run of the pipe script, Maildir", "ms"),
    Figure("start_webhook_ms", "one run of the pipe script, webhook", "ms"),
    # hostile input
    Figure("parser_inputs", "hostile inputs, each at scale 1 and 10"),
    Figure("parser_exceptions", "exceptions", aim="at most", limit=0),
    Figure("parser_worst_10x", "the largest processor time at scale 10 over that at scale 1", aim="at most", limit=15),
    Figure("parser_worst_10x_input", "the input that has it"),
    Figure("parser_slowest_seconds", "the longest processor time at scale 10", "s", "at most", 1.0),
    Figure("parser_slowest_input", "the input that has it"),
    Figure("parser_peak_rss_mb", "most memory of a fresh process that reads and judges one input", "MB", "at most", 150),
    Figure("parser_peak_rss_input", "the input that has it"),
    Figure("script_peak_rss_mb", "most memory of the whole pipe script on one input, webhook", "MB", "at most", 150),
    Figure("script_peak_rss_input", "the input that has it"),
)


def checked(results: Mapping[str, int | float | str]) -> Results:
    """The results in the order of FIGURES; ValueError where a name is missing or none of ours, or a value is not flat."""
    names = [figure.name for figure in FIGURES]
    if wrong := set(names) ^ set(results):
        raise ValueError(f"missing or unknown: {', '.join(sorted(wrong))}")
    if wrong := {name for name in names if type(results[name]) not in (int, float, str)}:
        raise ValueError(f"neither a number nor a text: {', '.join(sorted(wrong))}")
    return {name: results[name] for name in names}


def table(results: Mapping[str, int | float | str]) -> str:
    """What a person reads at the end: each figure, its aim, and whether it was met."""
    lines = []
    for figure in FIGURES:
        value = results[figure.name]
        unit = figure.unit and f" {figure.unit}"
        shown = value if isinstance(value, str) else f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
        aim = f" ({figure.aim} {figure.limit:g}{unit}: {'MISSED' if figure.missed(value) else 'met'})" if figure.aim else ""
        lines.append(f"{figure.name:<33} {shown + unit:>22}  {figure.what}{aim}")
    return "\n".join(lines)
