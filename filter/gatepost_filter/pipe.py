"""The transport script: pipe(8) runs it once for each message and recipient.

    argv=PYTHON -I .../gatepost_filter/pipe.py --config=FILE --size=${size} --sender=${sender} --recipient=${recipient}
        --original-recipient=${original_recipient} --queue-id=${queue_id} --client-address=${client_address}
        --helo=${client_helo}

With `--socket=PATH` it is thin: it hands the message to the warm process, and does the work itself only where there is none.

Promises: whatever happens, at most one line of at most 200 bytes on standard output, nothing on standard error, and an exit
status that pipe(8) reads as we mean it: 0 = it is done with; 75 and `4.x.y text` = Postfix keeps the message; another status
and `5.x.y text` only for a rule that has a name and may refuse. It ends by itself at timing.deadline. A message that was cut
off (a truncated standard input is a clean end of file) is deferred.
Never: prints what a library prints, exits by an exception, believes `--size` (a milter's edits do not change it), or lets a
child hold its standard output.

This file is short because Python compiles a script anew at each start: here is what must stand before anything can fail. `thin`
and `transport` have the rest. It imports nothing that is not there already (docs/decisions/0001-start-up-is-the-cost.md).
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_TEMPFAIL = 75
_LINE = b"4.3.0 Temporary failure, try later (rule=internal-error)\n"


def main(argv: list[str]) -> "NoReturn":
    """One message, from standard input to the exit status. Does not return."""
    try:
        # From here on only who knows this descriptor reaches pipe(8): a library that prints, or a child, has /dev/null.
        line_to = posix.dup(1)
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 1)
        posix.dup2(null, 2)
        _find_gatepost()
        if any(word.startswith("--socket=") for word in argv):
            from gatepost_filter import thin

            thin.run(argv, line_to)
        from gatepost_filter import transport

        transport.run(argv, line_to)
    except BaseException:  # noqa: BLE001  # an exception would end in status 1, and 1 bounces
        try:
            posix.write(line_to, _LINE)
        finally:  # where nobody reads, pipe(8) is gone, and the status goes nowhere either
            posix._exit(_TEMPFAIL)  # noqa: SLF001  # os._exit


def _find_gatepost() -> None:
    """The packages that this file came with: one folder up, in a checkout gatepost one more (-I hides both)."""
    folder = __file__.rpartition("/")[0].rpartition("/")[0]
    sys.path.insert(0, folder)
    try:
        posix.stat(f"{folder}/gatepost")
    except OSError:
        sys.path.insert(0, folder.rpartition("/")[0])


if __name__ == "__main__":
    main(sys.argv[1:])
