"""`gatepost postfix [--beside]`: prints the Postfix fragments filled in for this configuration, or writes them into a folder.

With `--beside` they are what is added to a Postfix that serves other domains: it is asked what is there (postconf(1)).
Never: changes /etc/postfix or a running Postfix; a person, or the Ansible role, puts them there (docs/wiring.md).
"""

from __future__ import annotations

import json
import os
import socket
import sys

import gatepost
from gatepost.beside import beside
from gatepost.cli import add_common
from gatepost.config import load
from gatepost.doctor.postfix_instance import PostfixError, find
from gatepost.doctor.postfix_instance import run as ask_postfix
from gatepost.doctor.wired import domains
from gatepost.errors import GatepostError
from gatepost.wiring import MESSAGE_SIZE_LIMIT, QUEUE_DIRECTORY, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from gatepost.settings import Settings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gatepost postfix`."""
    add_common(parser)
    parser.add_argument("--person", metavar="ADDRESS", required=True,
                        help="who gets mail for postmaster and abuse: an address on another host")  # fmt: skip
    parser.add_argument("--host", metavar="NAME", default=socket.getfqdn(), help="myhostname (default: %(default)s)")
    parser.add_argument("--user", default="gatepost", help="whom the script runs as (default: %(default)s)")
    parser.add_argument("--folder", default="/etc/postfix/gatepost", help="where the maps will lie (default: %(default)s)")
    parser.add_argument("--queue-directory", default=QUEUE_DIRECTORY, metavar="FOLDER",
                        help="Postfix's, below which the milter's socket lies (default: %(default)s)")  # fmt: skip
    parser.add_argument("--message-size-limit", type=int, default=MESSAGE_SIZE_LIMIT, metavar="BYTES",
                        help="the largest message as it travels (default: %(default)s)")  # fmt: skip
    parser.add_argument("--beside", action="store_true",
                        help="for a Postfix that serves other domains: only what is added to what is there")  # fmt: skip
    parser.add_argument("--postfix-config", default="", metavar="FOLDER",
                        help="with --beside: the folder of its main.cf (default: the Postfix that is found)")  # fmt: skip
    parser.add_argument("--write", metavar="FOLDER", help="write the files there instead of printing them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints or writes every fragment."""
    settings = load(arguments.config)
    try:
        files = _files(settings, arguments)
        if arguments.write:
            _write(arguments.write, files)
    except (ValueError, OSError, PostfixError) as error:
        raise GatepostError(str(error)) from error
    if arguments.json:
        print(json.dumps(files))
    elif not arguments.write:
        for name, text in files.items():
            print(f"##### {name}\n{text}")
    return 0


def _files(settings: Settings, arguments: argparse.Namespace) -> dict[str, str]:
    files = render(
        settings,
        python=sys.executable,
        pipe_script=pipe_script(),
        config=os.path.abspath(arguments.config),
        person=arguments.person,
        host=arguments.host,
        folder=arguments.folder,
        user=arguments.user,
        queue_directory=arguments.queue_directory,
        message_size_limit=arguments.message_size_limit,
    )
    if not arguments.beside:
        return files
    instance = find(arguments.postfix_config, arguments.config, domains(settings))
    if instance is None:
        raise GatepostError("there is no Postfix here to stand beside: --postfix-config names the folder of its main.cf")
    status, said, complaint = ask_postfix("postconf", "-c", instance.folder, "-n")
    if status:
        raise GatepostError(complaint)
    written = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in said.splitlines())}
    effective = instance.parameters
    return beside(files, written=written, effective=effective, folder=arguments.folder, person=arguments.person)


def pipe_script() -> str:
    """The transport script that came with this package; GatepostError where there is none."""
    parent = os.path.dirname(os.path.dirname(os.path.abspath(gatepost.__file__)))
    for root in (parent, os.path.join(parent, "filter")):
        path = os.path.join(root, "gatepost_filter", "pipe.py")
        if os.path.isfile(path):
            return path
    raise GatepostError("gatepost_filter/pipe.py is missing: install gatepost again")


def _write(folder: str, files: dict[str, str]) -> None:
    os.makedirs(folder, exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
