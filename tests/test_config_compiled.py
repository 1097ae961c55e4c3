"""The compiled copy: believed only when it is ours, whole and of these very files; a message pays for no YAML."""

from __future__ import annotations

import hashlib
import marshal
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.config import compiled, load, load_compiled, loading
from gatepost.errors import ConfigError
from gatepost.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
#: Who runs these tests where root starts them: root never believes a copy, and no mode stops root.
NOBODY = 65_534
CONFIG = """\
routes:
  - {name: replies, address: "reply+%{key}@in.example.com", keys: {format: signed, secret: reply-keys}, deliver: [app]}
sinks:
  app: {webhook: "https://app.example.com/mail", secret: app-webhook}
log: syslog
"""
SECRETS = f"reply-keys: {'k' * 32}\napp-webhook: whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5\n"
FORGED = "/forged.log"


class Place:
    """A folder of the running user's own: configuration, secrets, store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "gatepost.yml"
        self.secrets = folder / "secrets.yml"
        self.store = folder / "store"
        self.copy = self.store / compiled.COPY_NAME
        self.store.mkdir(mode=0o700)
        self.write(self.config, f"{CONFIG}store: {self.store}\n", 0o644)
        self.write(self.secrets, SECRETS, 0o600)

    def write(self, path: Path, text: str, mode: int) -> None:
        """A file with exactly this mode."""
        path.write_text(text)
        path.chmod(mode)

    def load(self) -> Settings:
        """As the pipe script does."""
        return load_compiled(str(self.config))

    def forge(self, payload: bytes | None = None) -> None:
        """A copy with the right head whose settings differ in `log`: who gets those has believed it."""
        built = loading.build(str(self.config))
        if payload is None:
            tree = {**built.tree, "log": FORGED}
            payload = marshal.dumps((built.secrets_path, hashlib.sha256(built.secrets_bytes).digest(), tree))
        key = compiled._key(str(self.config), self.config.read_bytes())
        self.copy.write_bytes(compiled._head(key, payload) + payload)
        self.copy.chmod(0o600)

    def believed(self) -> bool:
        """Whether a load takes the forged copy. If not, it gives what the files say."""
        settings = self.load()
        if settings.log == FORGED:
            return True
        assert settings == load(str(self.config))
        return False


@pytest.fixture
def place() -> Iterator[Place]:
    """A place of a user who is not root."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-test-", dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield Place(folder)
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        shutil.rmtree(folder)


EVERYTHING = """\
trusted: [mx2.example.com]
routes:
  - name: replies
    address: "reply+%{key}@in.example.com"
    keys: {format: signed, secret: reply-keys, former_domains: [old.example.com], ask: "https://app.example.com/k"}
    screening: {malformed: reject}
    sender: {must-match: flag, allow: [example.org, 192.0.2.0/24], deny: [a.example.org]}
    deliver: [app]
sinks:
  app: {webhook: "https://app.example.com/mail", secret: app-webhook}
limits: {per_route: [9/1m]}
milter: {socket: "inet:8891@127.0.0.1", authserv_id: mx.example.com, authenticate: [spf], dns: ["127.0.0.1:5353"],
         dns_deadline: 3s, default_action: accept}
log: syslog
"""


def test_a_copy_has_everything(place: Place) -> None:
    """What came out of a copy is what the files say, each setting in its own type."""
    place.write(place.config, f"{EVERYTHING}store: {place.store}\n", 0o644)
    place.load()
    inode = place.copy.stat().st_ino
    again = place.load()
    assert place.copy.stat().st_ino == inode
    assert again == load(str(place.config))
    assert again.milter is not None
    assert (again.milter.dns, again.milter.dns_deadline) == (("127.0.0.1:5353",), 3.0)
    assert again.routes[0].allow == ("example.org", "192.0.2.0/24")
    keys = again.routes[0].keys
    assert keys is not None
    assert keys.ask is not None
    assert keys.ask.secrets == again.sinks[0].secrets


def test_the_first_load_leaves_a_copy(place: Place) -> None:
    """A load without a copy leaves one in the store, mode 0600 whatever the umask, and nothing else beside it."""
    before = os.umask(0)
    try:
        settings = place.load()
    finally:
        os.umask(before)
    assert settings == load(str(place.config))
    assert [path.name for path in place.store.iterdir()] == ["config.compiled"]
    assert place.copy.stat().st_mode & 0o777 == 0o600
    first = place.copy.stat().st_ino
    assert place.load() == settings
    assert place.copy.stat().st_ino == first, "a good copy is not written again"


def test_a_good_copy_is_believed(place: Place) -> None:
    """What follows in this file means something: a copy that fits is taken without a look at the YAML."""
    place.forge()
    assert place.believed()


def _change_config(place: Place) -> None:
    place.write(place.config, place.config.read_text() + "# a remark\n", 0o644)


def _change_secrets(place: Place) -> None:
    place.write(place.secrets, SECRETS.replace("k" * 32, "n" * 32), 0o600)


def _move_config(place: Place) -> None:
    place.config.rename(place.folder / "other.yml")
    place.config = place.folder / "other.yml"


def _link(place: Place) -> None:
    place.copy.rename(place.store / "elsewhere")
    place.copy.symlink_to(place.store / "elsewhere")


def _pipe(place: Place) -> None:
    place.copy.unlink()
    os.mkfifo(place.copy, 0o600)


def _folder(place: Place) -> None:
    place.copy.unlink()
    place.copy.mkdir(mode=0o700)


def _grow(place: Place) -> None:
    with place.copy.open("ab") as copy:
        copy.truncate(compiled._MAX_COPY + 1)


def _empty(place: Place) -> None:
    place.copy.write_bytes(b"")


def _store_elsewhere(place: Place) -> None:
    (place.folder / "new").mkdir(mode=0o700)
    place.write(place.config, f"{CONFIG}store: {place.folder}/new\n", 0o644)


#: id, and what becomes of a good copy or of the files that it was made from.
STALE: list[tuple[str, Callable[[Place], None]]] = [
    ("configuration changed", _change_config),
    ("secrets changed", _change_secrets),
    ("configuration moved", _move_config),
    ("store moved", _store_elsewhere),
    ("readable by the group", lambda place: place.copy.chmod(0o640)),
    ("readable by others", lambda place: place.copy.chmod(0o604)),
    ("read-only", lambda place: place.copy.chmod(0o400)),
    ("not readable", lambda place: place.copy.chmod(0)),
    ("a link", _link),
    ("a FIFO", _pipe),
    ("a folder", _folder),
    ("too large", _grow),
    ("not there", lambda place: place.copy.unlink()),
    ("empty", _empty),
]


@pytest.mark.parametrize("change", [pytest.param(row[1], id=row[0]) for row in STALE])
def test_a_copy_that_does_not_fit_is_not_believed(place: Place, change: Callable[[Place], None]) -> None:
    """Stale, open to others, or no file of ours: the YAML is read, nothing is raised, and the next load is right again."""
    place.forge()
    change(place)
    assert not place.believed()
    assert not place.believed()


def test_another_version_s_copy_is_not_believed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of gatepost, of Python or of the settings' fields makes the copy stale."""
    for name, value in (("__version__", "0.0.0"), ("_FORMAT", 0)):
        with monkeypatch.context() as patch:
            place.forge()
            assert place.believed()
            patch.setattr(compiled, name, value)
            assert not place.believed(), name
    with monkeypatch.context() as patch:
        place.forge()
        patch.setattr(sys, "hexversion", 0)
        assert not place.believed()
    place.forge()
    monkeypatch.setattr(Settings, "_fields", (*Settings._fields, "newer"))
    assert compiled._payload(str(place.copy), compiled._key(str(place.config), place.config.read_bytes())) is None


def test_damage_at_any_byte_is_seen(place: Place) -> None:
    """One bit wrong anywhere, or the end missing from anywhere on: not believed, and mended by that very load."""
    place.forge()
    good = place.copy.read_bytes()
    offsets = [*range(compiled._HEAD + 8), *range(compiled._HEAD + 8, len(good), 29), len(good) - 1]
    damaged = [good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :] for at in offsets]
    damaged += [good[:at] for at in offsets] + [good + b"\0"]
    key = compiled._key(str(place.config), place.config.read_bytes())
    for copy in damaged:
        place.copy.write_bytes(copy)
        assert compiled._payload(str(place.copy), key) is None
    for copy in damaged[:: len(damaged) // 8]:
        place.copy.write_bytes(copy)
        assert not place.believed()
        assert compiled._payload(str(place.copy), key) is not None


#: Payloads that are whole and ours, and still no settings: what a version that forgot to raise _FORMAT could leave.
EMPTY_TREE: dict[str, object] = {
    "file": "/x", "routes": [], "sinks": [], "trusted": [], "timing": {}, "parked": {}, "parser": {},
}  # fmt: skip
SHAPES: list[tuple[str, Any]] = [
    ("no tuple", 1),
    ("two of three", ("", b"")),
    ("no tree", ("", b"", None)),
    ("empty tree", ("", b"", {})),
    ("tree of texts", ("", b"", dict.fromkeys(("routes", "sinks", "trusted", "timing", "parked", "parser"), "x"))),
    ("unknown field", ("", b"", {**EMPTY_TREE, "timing": {"x": 1.0}})),
    ("path that is none", (7, b"", EMPTY_TREE)),
    ("digest that is none", (__file__, 7, EMPTY_TREE)),
]  # fmt: skip


@pytest.mark.parametrize("shape", [pytest.param(row[1], id=row[0]) for row in SHAPES])
def test_a_copy_of_another_shape_is_not_believed(place: Place, shape: Any) -> None:
    """What is whole and ours but no settings costs a full load, and raises nothing."""
    place.forge(marshal.dumps(shape))
    assert not place.believed()


def test_a_copy_that_is_no_marshal_is_not_believed(place: Place) -> None:
    """Bytes that marshal cannot read, under a right digest."""
    for payload in (b"", b"\xff", marshal.dumps(("", b"", {}))[:-1]):
        place.forge(payload)
        assert not place.believed()


def test_somebody_else_s_copy_is_not_believed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner must be the user who runs; and who is not the store's owner writes no copy there."""
    place.forge()
    mine, me = place.copy.read_bytes(), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert not place.believed()
    assert place.copy.read_bytes() == mine
    place.copy.unlink()
    place.load()
    assert list(place.store.iterdir()) == []


def test_root_neither_believes_nor_writes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that root runs reads the YAML and leaves no file of root's in the store."""
    place.forge()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not place.believed()
    place.copy.unlink()
    place.load()
    assert list(place.store.iterdir()) == []


OPEN: list[tuple[str, Callable[[Place], None], str]] = [
    ("configuration group-writable", lambda place: place.config.chmod(0o664), "others may write to it"),
    ("secrets group-readable", lambda place: place.secrets.chmod(0o640), "others may read or change the secrets"),
    ("secrets gone", lambda place: place.secrets.unlink(), "secrets.yml: cannot be read: No such file"),
    ("secrets not readable", lambda place: place.secrets.chmod(0), "cannot be read by this user"),
    ("configuration not readable", lambda place: place.config.chmod(0), "cannot be read by this user"),
]


@pytest.mark.parametrize(("change", "fragment"), [pytest.param(*row[1:], id=row[0]) for row in OPEN])
def test_a_good_copy_does_not_hide_an_open_file(place: Place, change: Callable[[Place], None], fragment: str) -> None:
    """Modes are looked at for every message, copy or not."""
    place.forge()
    change(place)
    with pytest.raises(ConfigError) as caught:
        place.load()
    assert len(caught.value.problems) == 1
    assert fragment in str(caught.value)


def test_a_mistake_leaves_no_copy(place: Place) -> None:
    """A configuration with a mistake is told each time; nothing is kept of it."""
    place.write(place.config, place.config.read_text() + "nonsense: 1\n", 0o644)
    for _ in range(2):
        with pytest.raises(ConfigError, match="nonsense"):
            place.load()
    assert list(place.store.iterdir()) == []


def _no_store(place: Place) -> None:
    place.store.rmdir()


def _store_is_a_file(place: Place) -> None:
    place.store.rmdir()
    place.store.touch()


def _open_store(place: Place) -> None:
    place.store.chmod(0o770)


#: id, what keeps the copy from being written.
NO_COPY: list[tuple[str, Callable[[Place], None]]] = [
    ("store not there", _no_store),
    ("store read-only", lambda place: place.store.chmod(0o500)),
    ("store not to be entered", lambda place: place.store.chmod(0)),
    ("store open to the group", _open_store),
    ("store is a file", _store_is_a_file),
]


@pytest.mark.parametrize("change", [pytest.param(row[1], id=row[0]) for row in NO_COPY])
def test_a_copy_that_cannot_be_written_stops_no_message(place: Place, change: Callable[[Place], None]) -> None:
    """No folder, no right, a folder that others write to: the settings come from the YAML, and nothing is left behind."""
    change(place)
    try:
        assert place.load() == load(str(place.config))
    finally:
        if place.store.is_dir():
            place.store.chmod(0o700)
            assert list(place.store.iterdir()) == []


@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_full_disk_stops_no_message(place: Place, left: int) -> None:
    """A write that fails or stops half-way leaves no copy and no litter."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        settings = place.load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert settings == load(str(place.config))
    assert list(place.store.iterdir()) == []


#: id, the line that names the store, and whether its copy can be found without YAML.
STORE_LINES: list[tuple[str, str, bool]] = [
    ("plain", "store: {}", True),
    ("double quotes", 'store: "{}"', True),
    ("single quotes", "store: '{}'", True),
    ("with a remark", "store: {}   # ours", True),
    ("blank behind", "store: {}  ", True),
    ("slash behind", "store: {}/", True),
    ("no blank in front of the remark", "store: '{}' # it's ours", True),
    ("on the next line", "store:\n  {}", False),
    ("name in quotes", '"store": {}', False),
    ("escaped", 'store: "\\x2f{}"', False),
]


@pytest.mark.parametrize(("line", "found"), [pytest.param(*row[1:], id=row[0]) for row in STORE_LINES])
def test_the_store_is_found_without_yaml(place: Place, line: str, found: bool) -> None:
    """A plain `store:` line is found by a scan; any other spelling means no copy, never another configuration's."""
    folder = str(place.store).removeprefix("/") if "x2f" in line else str(place.store)
    place.write(place.config, f"{CONFIG}{line.format(folder)}\n", 0o644)
    assert place.load() == load(str(place.config))
    assert place.copy.exists() == found
    if found:
        place.forge()
        assert place.believed()


def test_two_configurations_may_share_a_store(place: Place) -> None:
    """Each load gives what its own file says, whoever wrote the copy last."""
    other = place.folder / "other.yml"
    place.write(other, place.config.read_text().replace("log: syslog", "log: /other.log"), 0o644)
    for _ in range(2):
        assert place.load().log == "syslog"
        assert load_compiled(str(other)).log == "/other.log"


HOT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import gatepost.config
if os.geteuid() == 0:
    os.setgid({nobody})
    os.setuid({nobody})
before = set(sys.modules)
for name in ("yaml", "gatepost.config.loading"):
    sys.modules[name] = None
settings = gatepost.config.load_compiled(sys.argv[2])
print(settings.log, *sorted(set(sys.modules) - before - {{"yaml", "gatepost.config.loading"}}))
put_off = "hashlib yaml re difflib email_validator dataclasses typing pathlib ipaddress urllib.parse gatepost.mail".split()
print("loaded", *[name for name in put_off if sys.modules.get(name)])
"""


def test_the_hot_path_pays_for_no_yaml(place: Place) -> None:
    """With a good copy the load imports nothing at all, and importing it has brought no YAML, `re` or validator."""
    place.forge()
    script = HOT.format(nobody=NOBODY)
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", script, str(ROOT), str(place.config)],
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout == f"{FORGED}\nloaded\n"


def test_the_hot_path_without_a_copy_needs_yaml(place: Place) -> None:
    """The counter-proof: the same run without a copy fails at the import that it was denied."""
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", HOT.format(nobody=NOBODY), str(ROOT), str(place.config)],
                         capture_output=True, text=True, check=False)  # fmt: skip
    assert "import of gatepost.config.loading halted" in ran.stderr
