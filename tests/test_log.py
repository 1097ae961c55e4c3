"""Our log: one line, escaped, and never a wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gatepost import log

LINES = [
    ({"action": "accept", "ms": 0}, "Q: action=accept ms=0", "plain words; nought is a value"),
    ({"route": "", "rule": "x"}, "Q: rule=x", "what is empty is left out"),
    ({"detail": "two words"}, 'Q: detail="two words"', "a blank is quoted"),
    ({"detail": 'a"b\\c'}, 'Q: detail="a\\"b\\\\c"', "quotes and backslashes are escaped"),
    ({"detail": "a\nQ2: action=accept"}, 'Q: detail="a\\x0aQ2: action=accept"', "no second line"),
    ({"detail": "a=b"}, "Q: detail=a=b", "an equals sign inside a value is a value's"),
    ({"detail": "\x1b[31m\u202e\udcff"}, 'Q: detail="\\x1b[31m\\u202e\\udcff"', "nothing steers a terminal"),
    ({"detail": "x" * 1000}, "Q: detail=" + "x" * 297 + "...", "bounded"),
]


@pytest.mark.parametrize(("fields", "line"), [row[:2] for row in LINES], ids=[row[2] for row in LINES])
def test_a_line_is_one_line(fields: dict[str, str | int], line: str) -> None:
    """Whatever a stranger sends stands in one value of one line of ASCII."""
    assert log.line("Q", **fields) == line


def test_lines_are_appended_with_time_and_process(tmp_path: Path) -> None:
    """A file gets whole lines, one behind the other."""
    for number in range(3):
        log.write(f"line {number}", str(tmp_path / "log"))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(f" gatepost[{os.getpid()}]: ")[2] for line in lines] == ["line 0", "line 1", "line 2"]


@pytest.fixture
def syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """A syslog daemon's socket in place of /dev/log."""
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(str(tmp_path / "devlog"))
    daemon.settimeout(10)
    monkeypatch.setattr(log, "_SOCKET", str(tmp_path / "devlog"))
    return daemon


def test_syslog_gets_the_mail_facility(syslog: socket.socket) -> None:
    """RFC 3164: mail is facility 2; information is severity 6, an error 3."""
    with syslog:
        log.write("one", "syslog")
        log.write("two", "syslog", error=True)
        first, second = syslog.recv(1000).decode(), syslog.recv(1000).decode()
    assert (first.partition(">")[0], second.partition(">")[0]) == ("<22", "<19")
    assert first.endswith(f" gatepost[{os.getpid()}]: one")


def test_a_file_that_cannot_be_written_falls_back_to_syslog(syslog: socket.socket, tmp_path: Path) -> None:
    """The line is not lost, and says why it came there."""
    with syslog:
        log.write("one", str(tmp_path / "absent" / "log"))
        assert "one log_fault=" in syslog.recv(1000).decode()


def test_a_syslog_that_does_not_read_is_no_wait(syslog: socket.socket) -> None:
    """Ten thousand lines into a socket that nobody empties: what does not fit is given up."""
    with syslog:
        for _ in range(10_000):
            log.write("x" * 100, "syslog")


def test_a_fifo_without_a_reader_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a FIFO whose reader does not read."""
    monkeypatch.setattr(log, "_SOCKET", str(tmp_path / "nothing"))
    os.mkfifo(tmp_path / "fifo")
    log.write("one", str(tmp_path / "fifo"))
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(2_000):
        log.write("x" * 100, str(tmp_path / "fifo"))
    assert os.read(reader, 1 << 20).startswith(b"20")
    os.close(reader)


def test_descriptors_used_up_can_be_told(tmp_path: Path) -> None:
    """A process that lives on keeps the log's own descriptor: a line can be written with none left, and the next one too."""
    used = (
        "import os, resource\n"
        "from gatepost import log\n"
        f"log.keep_spare({str(tmp_path / 'log')!r})\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError as error:\n"
        f"    for _ in range(2): log.write(error.strerror, {str(tmp_path / 'log')!r})\n"
    )
    subprocess.run([sys.executable, "-c", used], check=True, cwd=Path(__file__).resolve().parent.parent, timeout=60)
    assert (tmp_path / "log").read_text().count("Too many open files") == 2
