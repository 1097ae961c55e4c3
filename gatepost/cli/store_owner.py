"""Who touches the store: its owner, and nobody else.

Promises: a command started as root has the store folder's owner and group, and no other groups, before it opens a file there.
Never: leaves root-owned journal files behind: with those the pipe script could not open its ledger any more.
"""

from __future__ import annotations

import os
import pwd

from gatepost.errors import StoreError

__all__ = ["become_store_owner"]


def become_store_owner(store: str) -> None:
    """Drops root's rights for good; does nothing for any other user. StoreError where there is no such folder."""
    try:
        found = os.stat(store)
    except OSError as error:
        mend = f"make it with: install -d -o gatepost -g gatepost -m 0700 {store}"
        raise StoreError(f"store {store}: {error.strerror}; {mend}") from error
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    try:
        groups = os.getgrouplist(pwd.getpwuid(found.st_uid).pw_name, found.st_gid)
    except KeyError:
        groups = [found.st_gid]
    os.setgroups(groups)
    os.setresgid(found.st_gid, found.st_gid, found.st_gid)
    os.setresuid(found.st_uid, found.st_uid, found.st_uid)
