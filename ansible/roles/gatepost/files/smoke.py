"""Does this release work on this host? One message through its pipe script, as its user, with a configuration of its own.

Promises: whatever is wrong is said on standard error, with exit status 1; nothing is left behind, no mail is sent, no store but
a new one is touched.
Never: runs as anybody but the user that mail will be handed to.

Arguments: the user; then `milter` where the release must have what that needs.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from typing import TextIO

CONFIG = """\
store: {folder}/store
secrets: {folder}/secrets.yml
log: {folder}/store/log
routes:
  - {{name: smoke, address: smoke@smoke.example.com, deliver: [kept]}}
sinks:
  kept: {{maildir: {folder}/store/mail}}
"""
PERSON, ADDRESS = "person@example.com", "smoke@smoke.example.com"
MESSAGE = f"Received: from example.com\nFrom: {PERSON}\nTo: {ADDRESS}\nSubject: smoke\n\nsmoke\n\n".encode()
ARGUMENTS = (
    f"--sender={PERSON}",
    f"--recipient={ADDRESS}",
    f"--original-recipient={ADDRESS}",
    "--queue-id=4smoke4smoke4smoke",
    "--client-address=127.0.0.1",
    "--helo=example.com",
    "--size=1",
)


def become(user: str) -> None:
    """Root's rights are given up for good."""
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def write(path: str, text: str, mode: int) -> str:
    """A small file."""
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    return path


def say(text: str, to: TextIO) -> None:
    """A line that Ansible shows."""
    to.write(f"{text}\n")


def main() -> int:
    """0: it works."""
    user, wants = sys.argv[1], sys.argv[2:]
    os.umask(0o022)
    become(user)
    folder = tempfile.mkdtemp(prefix="gatepost-smoke.")
    try:
        os.mkdir(f"{folder}/store", 0o700)
        write(f"{folder}/secrets.yml", "unused: [unused]\n", 0o600)
        config = write(f"{folder}/gatepost.yml", CONFIG.format(folder=folder), 0o644)
        import gatepost
        from gatepost.cli.postfix import pipe_script

        said = [f"gatepost {gatepost.__version__}, Python {sys.version.split()[0]}"]
        if "milter" in wants:
            import Milter  # noqa: F401

            import gatepost.authentication
            import gatepost_milter.server  # noqa: F401

            said.append("with its milter")
        import gatepost_filter.server  # noqa: F401

        command = [sys.executable, "-I", pipe_script(), f"--config={config}", *ARGUMENTS]
        done = subprocess.run(command, input=MESSAGE, capture_output=True, cwd="/", timeout=60, check=False)  # noqa: S603
        answer = (done.stdout + done.stderr).decode(errors="replace").strip()
        if done.returncode or not answer.startswith("accepted route=smoke "):
            say(f"the pipe script ended with {done.returncode} and said: {answer}", sys.stderr)
            return 1
        say(f"{', '.join(said)}: {answer}", sys.stdout)
        return 0
    except Exception as error:  # noqa: BLE001  # whatever it is, this release is not to be used
        say(f"{type(error).__name__}: {error}", sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
