"""SHA-256 and HMAC without OpenSSL: the standard library's bytes, and what a short text must not load."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost import digest

ROOT = Path(__file__).resolve().parent.parent


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
@example(b"x" * 64, [])
@example(b"x" * 65, [])
def test_hmac_is_the_standard_librarys(secret: bytes, parts: list[bytes]) -> None:
    """For secrets below, at and above the block's 64 bytes, and for a message in any number of parts."""
    assert digest.hmac_sha256(secret, *parts) == hmac.digest(secret, b"".join(parts), "sha256")


@pytest.mark.parametrize("size", [0, 1, 63, 64, digest.LARGE - 1, digest.LARGE, digest.LARGE + 1])
def test_sha256_is_the_standard_librarys(size: int) -> None:
    """For both kinds of size, as bytes, as a view and in parts."""
    data = bytes(range(256)) * (size // 256 + 1)
    wanted = hashlib.sha256(data[:size]).digest()
    assert digest.sha256(data[:size]) == wanted
    assert digest.sha256(memoryview(data)[:size]) == wanted
    assert digest.sha256(data[: size // 3], data[size // 3 : size]) == wanted


#: Which module has SHA-256: (case, what makes it so)
WHERE = [
    ("Python 3.12 and later", "import hashlib, types; sys.modules['_sha2'] = types.SimpleNamespace(sha256=hashlib.sha256)"),
    ("Python 3.11", "sys.modules['_sha2'] = None"),
    ("no hash of its own", "sys.modules['_sha2'] = sys.modules['_sha256'] = None"),
]


@pytest.mark.parametrize("prepare", [row[1] for row in WHERE], ids=[row[0] for row in WHERE])
def test_wherever_sha256_comes_from(prepare: str) -> None:
    """The same bytes from whichever module the interpreter has SHA-256 in."""
    seen = run(f"{prepare}\nfrom gatepost import digest\nprint(digest.sha256(b'abc').hex())")
    assert seen == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(("size", "loaded"), [(digest.LARGE - 1, False), (digest.LARGE, True)], ids=["small", "large"])
def test_openssl_is_loaded_for_a_large_message_only(size: int, loaded: bool) -> None:
    """Loading it costs what it saves on 750 kB."""
    code = (
        f"from gatepost import digest\ndigest.sha256(bytes({size}))\ndigest.hmac_sha256(b'k', bytes({size} - 64))\n"
        "print('_hashlib' in sys.modules)"
    )
    assert run(code) == str(loaded)


def run(code: str) -> str:
    """What a Python of its own prints."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.strip()
