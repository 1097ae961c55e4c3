"""docs/keys.md is what the code does: its vectors and its minting code in five languages are read from the page and run.

Promises: a block that is changed, a vector that is wrong, or a language that is missing from the page fails here.
Never: skips a language where CI is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.keys import signed

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
DRIVERS = ROOT / "tests" / "minting"

#: Language of the fence -> the program that runs it.
LANGUAGES = {"ruby": "ruby", "javascript": "node", "php": "php", "go": "go"}
MOST_LINES = 19

#: id, what is changed in the first vector, why nobody may mint it.
NOT_MINTABLE: list[tuple[str, dict[str, Any]]] = [
    ("secret of 31 bytes", {"secret": "x" * 31}),
    ("empty subject", {"subject": ""}),
    ("subject of 17 bytes", {"subject": "00" * 17}),
    ("day beyond two bytes", {"expires": 65_536}),
]
#: Go has no null for these: below 0 and "" mean none there.
NOT_MINTABLE_BUT_IN_GO: list[tuple[str, dict[str, Any]]] = [
    ("day before day 0", {"expires": -1}),
    ("empty owner", {"owner": ""}),
]


def vectors() -> list[dict[str, Any]]:
    """The page's table, a dict for each row, named as its head names them."""
    table = PAGE.split("## Test vectors", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    names = rows[0]
    found: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in rows[2:]]
    for row in found:
        row["expires"] = int(row["expires"]) if row["expires"] else None
        row["owner"] = row["owner"] or None
    return found


def block(language: str) -> str:
    """The page's one fenced block in that language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{language}: {len(found)} blocks"
    return found[0]


def run_block(language: str, cases: list[dict[str, Any]], folder: Path) -> list[str]:
    """What the page's code in that language answers to each case: a key, or "refused"."""
    if language == "python":
        return [run_python(case) for case in cases]
    program = shutil.which(LANGUAGES[language])
    if program is None:
        assert "CI" not in os.environ, f"{LANGUAGES[language]} is not installed"
        pytest.skip(f"{LANGUAGES[language]} is not installed")
    suffix = {"ruby": "rb", "javascript": "js"}.get(language, language)
    driver = (DRIVERS / f"run.{suffix}").read_text(encoding="utf-8")
    script = folder / f"minting.{suffix}"
    arguments = [str(script)]
    if language == "go":
        script.write_text(block(language), encoding="utf-8")
        (folder / "driver.go").write_text(driver, encoding="utf-8")
        arguments = ["run", str(script), str(folder / "driver.go")]
    else:
        script.write_text(block(language) + "\n" + driver, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "GOCACHE": str(folder / "cache"),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOFLAGS": "-p=1",
    }
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(
        [program, *arguments], input=lines, capture_output=True, encoding="utf-8", env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def run_python(case: dict[str, Any]) -> str:
    namespace: dict[str, Any] = {}
    exec(compile(block("python"), "docs/keys.md", "exec"), namespace)
    names = ("secret", "key_id", "domain", "subject", "expires", "owner")
    try:
        return str(namespace["mint"](*((bytes.fromhex(case[name]) if name == "subject" else case[name]) for name in names)))
    except ValueError:
        return "refused"


def ours(case: dict[str, Any]) -> str:
    try:
        return signed.mint(
            secret=case["secret"].encode(),
            key_id=case["key_id"],
            domain=case["domain"],
            subject=bytes.fromhex(case["subject"]),
            expires=case["expires"],
            owner=case["owner"],
        )
    except ValueError:
        return "refused"


def test_the_page_has_vectors_of_every_form() -> None:
    """At least eight vectors, with and without expiry and owner, the shortest and the longest subject, and capitals."""
    rows = vectors()
    assert len(rows) >= 8
    assert len({(row["expires"] is None, row["owner"] is None) for row in rows}) == 4
    assert {1, 16} <= {len(row["subject"]) // 2 for row in rows}
    assert any(row["domain"] != row["domain"].lower() for row in rows)
    assert any(row["owner"] and not row["owner"].isascii() for row in rows)
    assert any(len(row["secret"].encode()) > 64 for row in rows), "a secret longer than HMAC's block is hashed first"


@pytest.mark.parametrize("row", vectors(), ids=lambda row: row["key"][:12])
def test_vector(row: dict[str, Any]) -> None:
    """Each vector is what `mint` makes, verifies, and says what its row says."""
    assert ours(row) == row["key"]
    verdict = signed.verify(
        row["key"], secrets=(row["secret"].encode(),), key_id=row["key_id"], domains=(row["domain"],), today=row["expires"] or 0
    )
    assert (verdict.result, verdict.subject.hex(), verdict.expires) == ("live", row["subject"], row["expires"])
    assert bool(verdict.owner) == bool(row["owner"])
    assert signed.owner_matches(verdict, row["owner"] or "nobody@example.org", row["key_id"]) == bool(row["owner"])
    assert row["date"] == ("" if row["expires"] is None else str(date(2020, 1, 1) + timedelta(days=row["expires"])))


@pytest.mark.parametrize("language", ["python", *LANGUAGES])
def test_minting_code(language: str, tmp_path: Path) -> None:
    """The page's code mints every vector byte for byte, and refuses what no key can carry."""
    rows = vectors()
    bad = NOT_MINTABLE + (NOT_MINTABLE_BUT_IN_GO if language != "go" else [])
    answers = run_block(language, [*rows, *({**rows[0], **change} for _, change in bad)], tmp_path)
    expected = [(row["key"], row["key"]) for row in rows] + [(name, "refused") for name, _ in bad]
    assert list(zip((name for name, _ in expected), answers, strict=True)) == expected


@pytest.mark.parametrize("language", ["python", *LANGUAGES])
def test_minting_code_is_short(language: str) -> None:
    """Each block has under 20 lines of code."""
    assert len([line for line in block(language).splitlines() if line.strip()]) <= MOST_LINES


@pytest.mark.parametrize(("name", "change"), NOT_MINTABLE + NOT_MINTABLE_BUT_IN_GO, ids=lambda value: str(value))
def test_what_the_page_refuses_we_refuse(name: str, change: dict[str, Any]) -> None:
    """`mint` refuses what the page's code refuses."""
    assert ours({**vectors()[0], **change}) == "refused", name


NO_NUL = st.characters(codec="utf-8", exclude_characters="\0")


@settings(max_examples=200, deadline=None)
@given(
    secret=st.text(st.characters(codec="utf-8"), min_size=32, max_size=80),
    subject=st.binary(min_size=1, max_size=16),
    expires=st.none() | st.integers(0, 65_535),
    owner=st.none() | st.text(NO_NUL, min_size=1, max_size=30).map(lambda local: local + "@É.org"),
    key_id=st.text(NO_NUL, min_size=1, max_size=20),
)
def test_page_and_code_agree_on_anything(
    secret: str,
    subject: bytes,
    expires: int | None,
    owner: str | None,
    key_id: str,
) -> None:
    """The page's Python, which shares nothing with ours (base64 and hmac there), mints the same keys from any arguments."""
    case = {
        "secret": secret,
        "key_id": key_id,
        "domain": "In.Example.com",
        "subject": subject.hex(),
        "expires": expires,
        "owner": owner,
    }
    assert run_python(case) == ours(case)
