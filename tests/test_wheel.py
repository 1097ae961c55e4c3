"""The wheel: what is in it, and that gatepost works from it where the checkout is not. Needs root, as an installation does."""

from __future__ import annotations

import email
import json
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

import gatepost
from demo.environment import CHECKOUT, Environment, make_environment, run_as
from gatepost.wiring import FRAGMENTS
from tests.faulty_app import FaultyApp
from tests.installation import WEBHOOK_SECRET, message, webhook
from tests.integration.conftest import given, in_maildir, open_folder, queue_id, run_script

#: A warning is an error, and so is a text file opened without its encoding.
STRICT = ("-W", "error", "-X", "warn_default_encoding")
DIST_INFO = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


@dataclass(frozen=True)
class Installed:
    """A wheel that was built just now, and a fresh environment with it."""

    environment: Environment
    wheel: Path
    folder: Path

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """`gatepost WORDS`, as the user gatepost, where a warning is an error."""
        return run_as("gatepost", [self.environment.python, "-I", *STRICT, self.environment.command, *words])


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """Builds and installs; pip checks each file against RECORD."""
    with open_folder("built") as folder:
        environment = make_environment(folder / "environment", source="wheel")
        (wheel,) = (folder / "environment").rglob("gatepost-*.whl")
        yield Installed(environment, wheel, folder)


@pytest.fixture(scope="module")
def with_milter(installed: Installed) -> Environment:
    """Another environment, with the extra [milter]."""
    return make_environment(installed.folder / "with-milter", source="wheel", milter=True)


def expected() -> dict[str, Path]:
    """Each name in the wheel that is a file of the checkout, and that file."""
    stem = f"gatepost-{gatepost.__version__}"
    sources = {path.relative_to(CHECKOUT).as_posix(): path for path in (CHECKOUT / "gatepost").rglob("*.py")}
    for root in (CHECKOUT / "filter", CHECKOUT / "milter"):
        sources |= {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    fragments = {f"{stem}.data/data/share/gatepost/postfix/{name}": CHECKOUT / "postfix" / name for name in FRAGMENTS}
    return {**sources, **fragments, "gatepost/py.typed": CHECKOUT / "gatepost" / "py.typed"}


def in_wheel(wheel: Path) -> dict[str, bytes]:
    """Name -> bytes. The licence lies in licenses/ or, with older tools, beside the rest."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.replace("info/LICENSE", "info/licenses/LICENSE"): archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_the_files_of_the_tree_and_no_other(installed: Installed) -> None:
    """Every module, py.typed, the Postfix fragments, metadata and licence; a package that setup.cfg forgets is missed here."""
    metadata = {f"gatepost-{gatepost.__version__}.dist-info/{name}" for name in DIST_INFO}
    assert set(in_wheel(installed.wheel)) == {*expected(), *metadata}


def test_the_files_are_those_of_the_tree(installed: Installed) -> None:
    """Byte for byte: nothing stale from an earlier build."""
    found = in_wheel(installed.wheel)
    assert [name for name, path in expected().items() if found.get(name) != path.read_bytes()] == []


def test_every_fragment_of_postfix_is_listed() -> None:
    """A file in postfix/ that is none of FRAGMENTS would never be printed, and would not be in the wheel."""
    assert {path.name for path in (CHECKOUT / "postfix").iterdir()} == set(FRAGMENTS)


def test_the_metadata_say_what_setup_cfg_says(installed: Installed) -> None:
    """Name, version, Python, licence and dependencies; the command is an entry point."""
    found = in_wheel(installed.wheel)
    folder = f"gatepost-{gatepost.__version__}.dist-info"
    about = email.message_from_bytes(found[f"{folder}/METADATA"])
    config = ConfigParser(interpolation=None)
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    wanted = config["options"]["install_requires"].split()
    assert (about["Name"], about["Version"], about["Requires-Python"]) == ("gatepost", gatepost.__version__, ">=3.11")
    assert about["License"] == "Apache-2.0" or about["License-Expression"] == "Apache-2.0"
    assert [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line] == wanted
    assert b"gatepost = gatepost.cli:main" in found[f"{folder}/entry_points.txt"]
    assert found[f"{folder}/licenses/LICENSE"] == (CHECKOUT / "LICENSE").read_bytes()


def test_each_file_compiles_without_a_warning(installed: Installed) -> None:
    """What a compiler warns of stands on standard error of the first run; -f: whatever was compiled before."""
    site = Path(installed.environment.pipe_script).parent.parent
    folders = [str(site / name) for name in ("gatepost", "gatepost_filter", "gatepost_milter")]
    done = subprocess.run([installed.environment.python, "-I", *STRICT, "-m", "compileall", "-q", "-f", *folders], timeout=120,
                          capture_output=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


#: Imports every module that it is told; prints those that came, with their files, and those that lack something.
IMPORT_ALL = """\
import importlib, sys
for name in sys.argv[1:]:
    try:
        print(name, importlib.import_module(name).__file__)
    except ImportError as error:
        print(name, "lacks", type(error).__name__)
"""


def imported(environment: Environment) -> dict[str, str]:
    """Every module of ours, as the user gatepost imports it there: its file, or what it lacks."""
    modules = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                     for name in expected() if name.endswith(".py") and not name.endswith("__main__.py"))  # fmt: skip
    done = run_as("gatepost", [environment.python, "-I", *STRICT, "-c", IMPORT_ALL, *modules])
    assert (done.returncode, done.stderr) == (0, b"")
    found = dict(line.split(" ", 1) for line in done.stdout.decode().splitlines())
    assert list(found) == modules
    return found


def test_it_runs_where_the_checkout_is_not(installed: Installed, with_milter: Environment) -> None:
    """Every module is imported from the environment and none from the checkout; two rooms alone need the extra [milter]."""
    without, with_extra = imported(installed.environment), imported(with_milter)
    lacking = {name for name, file in without.items() if file.startswith("lacks ")}
    assert lacking >= {"gatepost.authentication", "gatepost_milter.server"}
    assert {name for name in lacking if not name.startswith("gatepost.authentication.")} == {
        "gatepost.authentication", "gatepost_milter.server",
    }  # fmt: skip
    for found, folder in ((without, installed.environment.folder), (with_extra, with_milter.folder)):
        assert [file for file in found.values() if not file.startswith(("lacks ", folder))] == []
    assert not any(file.startswith("lacks ") for file in with_extra.values()), with_extra


MILTER = "milter: {socket: 'unix:/var/spool/postfix/gatepost/milter.sock', authserv_id: mx.example.com}\n"


def test_without_the_extra_only_the_milter_is_missing(installed: Installed) -> None:
    """`gatepost milter` says what to install and how; check, doctor, fragments and the pipe script work, with `milter:` as well."""
    with open_folder("no-extra") as folder:
        made = given(folder / "installed", more=MILTER)
        milter = installed.command("milter", "--config", str(made.config))
        assert (milter.returncode, milter.stdout) == (75, b"")
        assert b"gatepost[milter]" in milter.stderr
        assert milter.stderr.count(b"\n") == 1
        checked = installed.command("config", "check", str(made.config))
        assert (checked.returncode, checked.stderr) == (0, b"")
        report = installed.command("doctor", "--postfix-config", "none", "--json", "--config", str(made.config))
        first = json.loads(report.stdout.splitlines()[0])
        assert (first["name"], first["status"]) == ("milter", "FAIL")
        assert "pip install 'gatepost[milter]'" in first["mend"]
        wired = installed.command(
            "postfix", "--config", str(made.config), "--person", "person@example.org", "--host", "mx.example.com"
        )
        assert b"\nsmtpd_milters = {unix:gatepost/milter.sock, " in wired.stdout
        ran = run_script(installed.environment.python, installed.environment.pipe_script, made, message(), queue_id=queue_id(1),
                         recipient=made.address(made.key()), flags=STRICT)  # fmt: skip
        assert (ran[0], ran[1].partition(" id=")[0]) == (0, "accepted route=replies")


COMMANDS: list[tuple[str, Sequence[str], str]] = [
    ("--version", ["--version"], f"gatepost {gatepost.__version__}"),
    ("--help", ["--help"], "commands"),
    ("config check", ["config", "check", "{config}"], "ok, 2 routes, 1 sink"),
    ("postfix", ["postfix", "--config", "{config}", "--person", "person@example.org", "--host", "mx.example.com"], "# main.cf"),
    ("key new", ["key", "new", "--config", "{config}", "--route", "replies", "--subject", "42"], "reply+"),
    ("parked list", ["parked", "list", "--config", "{config}"], "nothing is parked"),
]


@pytest.mark.parametrize(("words", "says"), [row[1:] for row in COMMANDS], ids=[row[0] for row in COMMANDS])
def test_a_command_works_from_the_wheel(installed: Installed, tmp_path: Path, words: Sequence[str], says: str) -> None:
    """Each ends with 0, nothing on standard error, where a warning is an error."""
    with open_folder("command") as folder:
        made = given(folder / "installed")
        done = installed.command(*(word.format(config=made.config) for word in words))
    assert (done.returncode, done.stderr) == (0, b""), done
    assert says in done.stdout.decode()


def test_the_printed_fragments_name_what_is_installed(installed: Installed) -> None:
    """`gatepost postfix` finds its templates in the environment, and names its interpreter and its script."""
    with open_folder("command") as folder:
        made = given(folder / "installed")
        done = installed.command("postfix", "--config", str(made.config), "--person", "person@example.org", "--host",
                                 "mx.example.com", "--json")  # fmt: skip
    printed = json.loads(done.stdout)
    assert list(printed) == list(FRAGMENTS)
    argv = f"argv={installed.environment.python} -I {installed.environment.pipe_script} --config={made.config}\n"
    assert argv in printed["master.cf"]


def test_the_pipe_script_works_from_the_wheel(installed: Installed) -> None:
    """A message goes to the app, another to a Maildir, with the first run's YAML and the next one's compiled copy."""
    python, script = installed.environment.python, installed.environment.pipe_script
    with FaultyApp(secrets=[WEBHOOK_SECRET]) as app, open_folder("delivered") as folder:
        for sink in (webhook(app.url()), ""):
            made = given(folder / ("maildir" if not sink else "webhook"), app=sink)
            for number in range(2):
                status, line = run_script(python, script, made, message(subject=f"{number}"), queue_id=queue_id(number),
                                          recipient=made.address(made.key()), flags=STRICT)  # fmt: skip
                assert (status, line.partition(" id=")[0]) == (0, "accepted route=replies")
            assert (made.store / "config.compiled").exists()
        assert len(app.taken) == 2
        assert sum(in_maildir(folder / "maildir" / "Maildir").values()) == 2


def test_an_installation_without_the_checkouts_rights(installed: Installed) -> None:
    """Everybody may read what was installed, whatever the umask of who installed it."""
    closed = [path for path in Path(installed.environment.folder).rglob("*") if not path.is_symlink()
              and path.stat().st_mode & (0o005 if path.is_dir() else 0o004) == 0]  # fmt: skip
    assert closed == []
