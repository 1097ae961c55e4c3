"""Module gatepost_wheel of role gatepost: one content has one name, and what is no wheel of gatepost is refused."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ansible_module import Answer, run_module

NAMED = "gatepost-0.3.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: gatepost\nVersion: 0.3.0\n\nVersion: 9.9.9\n"


def run(checkout: Path, *, check: bool = False, **arguments: Any) -> Answer:
    return run_module("gatepost", "gatepost_wheel", {"checkout": str(checkout), **arguments}, check=check)


def zipped(path: Path, entries: dict[str, str], packed: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, text in entries.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text, packed)
    return path


def wheel(path: Path, metadata: str = METADATA, folder: str = "gatepost-0.3.0.dist-info", more: str = "") -> Path:
    """A wheel as far as this module looks; the time of its entries is always the same."""
    return zipped(path, {"gatepost/__init__.py": f"{more}\n", f"{folder}/METADATA": metadata})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The least that a wheel is made of."""
    root = tmp_path / "checkout"
    (root / "gatepost").mkdir(parents=True)
    (root / "gatepost" / "__init__.py").write_text('"""Nothing."""\n__version__ = "0.3.0"\n')
    (root / "setup.cfg").write_text(
        "[metadata]\nname = gatepost\nversion = attr: gatepost.__version__\n[options]\npackages = gatepost\n"
    )
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=68"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    return root


# --- given ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [False, True], ids=["run", "check"])
def test_a_given_wheel_is_named_by_its_version_and_content(tmp_path: Path, check: bool) -> None:
    """VERSION-HASH: the same for the same content, wherever it lies; nothing is made or changed."""
    answers = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        path = wheel(tmp_path / place / NAMED)
        answers.append(run(tmp_path, wheel=str(path), check=check).result)
        assert answers[-1]["wheel"] == str(path)
    assert re.fullmatch(r"0\.3\.0-[0-9a-f]{12}", answers[0]["release"])
    assert [(each["release"], each["changed"], each["made"]) for each in answers] == [(answers[0]["release"], False, False)] * 2
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


OTHERS = [
    ({"more": "x = 1"}, "", False, "another content"),
    ({}, "extra-1.0", False, "another salt: other libraries beside it"),
    ({}, "", True, "the same"),
]


@pytest.mark.parametrize(("changed", "salt", "same", "why"), OTHERS, ids=[row[3] for row in OTHERS])
def test_another_content_is_another_release(tmp_path: Path, changed: dict[str, str], salt: str, same: bool, why: str) -> None:
    """The version alone does not name a release."""
    first = run(tmp_path, wheel=str(wheel(tmp_path / NAMED))).result["release"]
    assert (run(tmp_path, wheel=str(wheel(tmp_path / NAMED, **changed)), salt=salt).result["release"] == first) is same, why


def cut(path: Path) -> None:
    """Half of it, as a copy that broke off."""
    whole = wheel(path, more=os.urandom(500).hex()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def turned(path: Path) -> None:
    """One byte of a member is another; the list at the end is as it was."""
    data = bytearray(zipped(path, {"gatepost/x.py": "abcdef", "gatepost-0.3.0.dist-info/METADATA": METADATA}, 0).read_bytes())
    data[data.index(b"abcdef")] ^= 1
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    """Every member says that it has a password."""
    data = bytearray(wheel(path).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] |= 1
    path.write_bytes(data)


#: id, the file's name, what is put there, what the reason has in it
REFUSED: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("nothing", NAMED, lambda path: None, "No such file"),
    ("a folder", NAMED, lambda path: path.mkdir(), "Is a directory"),
    ("no bytes", NAMED, lambda path: path.write_bytes(b""), "is no wheel, or not a whole one"),
    ("no zip", NAMED, lambda path: path.write_text("<html>404 Not Found</html>"), "is no wheel, or not a whole one"),
    ("half a zip", NAMED, cut, "is no wheel, or not a whole one"),
    ("a zip with a member that is broken", NAMED, turned, "gatepost/x.py in it is broken"),
    ("a zip with a password", NAMED, encrypted, "is no wheel, or not a whole one"),
    ("a zip that is no wheel", NAMED, lambda path: zipped(path, {"x": "y"}), "has nothing in it"),
    ("its metadata lie deeper: pip would not find them", NAMED, lambda path: wheel(path, folder="x/y.dist-info"), "has nothing in it"),
    ("another project's under our name", NAMED, lambda path: wheel(path, METADATA.replace("gatepost", "requests")), "has requests 0.3.0"),
    ("another version than its name says: pip refuses it on the host", NAMED,
     lambda path: wheel(path, METADATA.replace("0.3.0", "0.2.0")), "has gatepost 0.2.0 in it"),
    ("no version: the one that is meant stands below the head", NAMED,
     lambda path: wheel(path, METADATA.replace("Version: 0.3.0\n", "")), "has gatepost in it"),
    ("another project's", "requests-2.0-py3-none-any.whl", wheel, "is not named as a wheel of gatepost is"),
    ("a source archive", "gatepost-0.3.0.tar.gz", wheel, "is not named as a wheel of gatepost is"),
    ("a name of one's own", "latest.whl", wheel, "is not named as a wheel of gatepost is"),
    ("a version that would be another folder", "gatepost-..-py3-none-any.whl", lambda path: wheel(path, METADATA.replace("0.3.0", "..")),
     "is not named as a wheel of gatepost is"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "put", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_wheel_of_gatepost_is_refused(tmp_path: Path, name: str, put: Callable[[Path], object], says: str) -> None:
    """Before anything goes to a host: the reason names the file and what is wrong with it."""
    put(tmp_path / name)
    answer = run(tmp_path, wheel=str(tmp_path / name))
    assert answer.failed.startswith(f"{tmp_path / name}: ")
    assert says in answer.failed
    assert "release" not in answer.result


# --- made -----------------------------------------------------------------------------------------------------------------


def files(root: Path) -> dict[str, bytes]:
    """Everything outside of .cache."""
    found = (path for path in root.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_a_wheel_is_made_once_of_a_checkout(checkout: Path) -> None:
    """Check mode names it; a run makes it, as a wheel that the module itself would take; the next finds it; one that is broken is
    made again. Nothing is written but below .cache.
    """
    before = files(checkout)
    told = run(checkout, check=True).result
    assert (told["made"], os.path.exists(told["wheel"]), (checkout / ".cache").exists()) == (False, False, False)
    made = run(checkout).result
    assert (made["made"], made["changed"], made["wheel"], made["release"]) == (True, False, told["wheel"], told["release"])
    path = Path(made["wheel"])
    assert not run(checkout, wheel=str(path)).failed
    first = path.stat()
    again = run(checkout).result
    assert (again["made"], again["release"], path.stat().st_mtime_ns) == (False, made["release"], first.st_mtime_ns)
    path.write_bytes(path.read_bytes()[:100])
    mended = run(checkout).result
    assert (mended["made"], mended["release"], zipfile.is_zipfile(path)) == (True, made["release"], True)
    assert (files(checkout), os.listdir(path.parent)) == (before, [path.name])


def new(path: Path) -> None:
    """A file of no bytes in a new folder."""
    path.parent.mkdir(parents=True)
    path.touch()


#: A change to the checkout, and whether it makes another release.
SOURCES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("a source", lambda root: (root / "gatepost" / "__init__.py").write_text('__version__ = "0.3.0"\n'), True),
    ("a new file", lambda root: (root / "gatepost" / "new.py").write_text(""), True),
    ("a file's name", lambda root: (root / "pyproject.toml").rename(root / "LICENSE"), True),
    ("a fragment for Postfix", lambda root: new(root / "postfix" / "main.cf"), True),
    ("what is compiled", lambda root: new(root / "gatepost" / "__pycache__" / "x.pyc"), False),
    ("what an editor leaves", lambda root: (root / "gatepost" / ".swp").write_text("x"), False),
    ("what setuptools leaves", lambda root: new(root / "filter" / "gatepost.egg-info" / "PKG-INFO"), False),
    ("a page", lambda root: (root / "CHANGELOG.md").write_text("x"), False),
    ("a file's time", lambda root: os.utime(root / "setup.cfg", (1, 1)), False),
]


@pytest.mark.parametrize(("change", "another"), [row[1:] for row in SOURCES], ids=[row[0] for row in SOURCES])
def test_what_a_wheel_is_made_of_names_it(checkout: Path, change: Callable[[Path], object], another: bool) -> None:
    """What goes into the wheel, and nothing else."""
    first = run(checkout, check=True).result["release"]
    change(checkout)
    assert (run(checkout, check=True).result["release"] != first) is another


NOTHING: list[tuple[str, Callable[[Path], object], str]] = [
    ("no folder of that name", lambda root: root.rename(root.parent / "gone"), "no sources to make a wheel of"),
    ("no package in it", lambda root: (root / "gatepost" / "__init__.py").unlink(), "no sources to make a wheel of"),
    ("pip cannot", lambda root: (root / "setup.cfg").write_text("[metadata"), "the wheel cannot be made: "),
]


@pytest.mark.parametrize(("change", "says"), [row[1:] for row in NOTHING], ids=[row[0] for row in NOTHING])
def test_a_checkout_that_makes_no_wheel_is_told(checkout: Path, change: Callable[[Path], object], says: str) -> None:
    """The reason, pip's own words where it is pip's; no half wheel is left to be found next time."""
    change(checkout)
    answer = run(checkout)
    assert says in answer.failed
    assert not list(checkout.rglob("*.whl*"))


def test_the_release_is_of_the_content_and_the_salt(tmp_path: Path) -> None:
    """12 hex digits of SHA-256 over the wheel's SHA-256, a NUL and the salt: two controllers give it the same name."""
    path = wheel(tmp_path / NAMED)
    mark = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = hashlib.sha256(f"{mark}\0salt".encode()).hexdigest()[:12]
    assert run(tmp_path, wheel=str(path), salt="salt").result["release"] == f"0.3.0-{wanted}"
