"""Queue IDs as Postfix makes them."""

from __future__ import annotations

import pytest

from gatepost.queue_id import arrival, is_long

ROWS = [
    ("4jWl4Z5tH8zJv6D", 1_795_248_030, "seen on 2026-11-21 08:00:30 UTC"),
    ("3Pt2mN2VXxznjll", 1_300_631_508, "the example of postconf(5)"),
    ("80F0D1F3C1A", None, "short: microseconds and inode number in hexadecimal"),
    ("4jWl4Z5tH8", None, "no inode number"),
    ("4jWl4Z5tH8xJv6D", None, "no z where the time ends"),
    ("4aWl4Z5tH8zJv6D", None, "a vowel is no digit"),
    ("", None, "none"),
    ("\u0417\u0417\u0417\u0417\u0417\u0417\u0417\u0417\u0417\u0417z\u0417\u0417", None, "not ASCII"),
]


@pytest.mark.parametrize(("queue_id", "seconds"), [row[:2] for row in ROWS], ids=[row[2] for row in ROWS])
def test_a_long_queue_id_begins_with_its_time(queue_id: str, seconds: int | None) -> None:
    """Seconds since 1970 in base 52; None for every other form."""
    assert is_long(queue_id) is (seconds is not None)
    assert arrival(queue_id) == seconds
