"""The transport script: pipe(8) runs it once for each message and recipient.

    argv=PYTHON -I .../gatepost_filter/pipe.py --config=FILE --size=${size} --sender=${sender} --recipient=${recipient}
        --original-recipient=${original_recipient} --queue-id=${queue_id} --client-address=${client_address}
        --helo=${client_helo}

Promises: whatever happens, at most one line of at most 200 bytes on standard output, nothing on standard error, and an exit
status that pipe(8) reads as we mean it: 0 = it is done with; 75 and `4.x.y text` = Postfix keeps the message; another status
and `5.x.y text` only for a rule that has a name and may refuse. It ends by itself at timing.deadline. A message that was cut
off (a truncated standard input is a clean end of file) is deferred.
Never: prints what a library prints, exits by an exception, believes `--size` (a milter's edits do not change it), or lets a
child hold its standard output.

This file is short because Python compiles a script anew at each start (1.6 ms of every message when it held all of it): here is
what must stand before anything can fail, and `transport` has the rest.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: sysexits.h: EX_TEMPFAIL, the one status that defers whatever the output says.
_TEMPFAIL = 75
_LINE = b"4.3.0 Temporary failure, try later (rule=internal-error)\n"


def main(argv: list[str]) -> NoReturn:
    """One message, from standard input to the exit status. Does not return."""
    try:
        # From here on only who knows this descriptor reaches pipe(8): a library that prints, or a child, has /dev/null.
        line_to = os.dup(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        gc.disable()  # a process of one message: looking for cycles costs 0.7 ms and finds none worth freeing
        _find_gatepost()
        from gatepost_filter import transport

        transport.run(argv, line_to)
    except BaseException:  # noqa: BLE001  # an exception would end in status 1, and 1 bounces
        try:
            os.write(line_to, _LINE)
        finally:  # where nobody reads, pipe(8) is gone, and the status goes nowhere either
            os._exit(_TEMPFAIL)


def _find_gatepost() -> None:
    """The packages that this file came with: one folder up, in a checkout gatepost one more (-I hides both)."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, folder)
    if not os.path.isdir(os.path.join(folder, "gatepost")):
        sys.path.insert(0, os.path.dirname(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
