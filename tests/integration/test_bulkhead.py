"""A real Postfix, the warm process and two apps, one of which hangs: the other's mail flows. Needs root and the package postfix."""

from __future__ import annotations

import signal
from typing import Final

from demo.environment import Environment
from demo.postfix_instance import PrivatePostfix, wait_for
from gatepost.keys.outgoing import fill
from tests.faulty_app import FaultyApp
from tests.installation import DOMAIN, WEBHOOK_SECRET, Installation, message, webhook
from tests.integration.conftest import PATIENT, Service, given, open_folder, wait_for_empty_queue
from tests.integration.warm_host import LMTP, Host

_TIMING: Final = "timing: {deadline: 60s, lease: 70s}\n"
_ROUTES: Final = "".join(
    f'  - {{name: {name}, address: "{name}+%{{key}}@{DOMAIN}", keys: {{format: signed, secret: reply-keys}}, deliver: [{name}]}}\n'
    for name in ("slow", "well")
)


def address(made: Installation, route: str, number: int) -> str:
    """One of its own for each: Postfix begins with five at once for one recipient (initial_destination_concurrency)."""
    return fill(f"{route}+%{{key}}@{DOMAIN}", made.key(str(number)))


def test_an_app_that_hangs_leaves_postfix_to_the_other(tree: Environment) -> None:
    """More messages for it than Postfix has deliveries (20): those beyond its places are deferred at once, every message for

    the other app arrives while the hung ones are still in its hands, and none is lost: when it is back, the queue empties.
    """
    with (
        open_folder("bulkhead") as folder,
        FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="hang-until-told") as slow,
        FaultyApp(secrets=[WEBHOOK_SECRET], behaviour="kept") as well,
    ):
        postfix = PrivatePostfix(folder / "instance", options={**PATIENT, "virtual_transport": LMTP})
        socket = postfix.milter_folder("gatepost") / "lmtp.sock"
        sinks = "".join(f"  {name}: {webhook(app.url())}\n" for name, app in (("slow", slow), ("well", well)))
        made = given(folder / "made", more=f"{_ROUTES}lmtp: {{socket: 'unix:{socket}'}}\n{_TIMING}", sinks=sinks)
        postfix.wire(Service(made=made, python=tree.python, script=tree.pipe_script).fragments(postfix))
        host = Host(postfix, well, made, tree, socket)
        try:
            host.start()
            with postfix:
                postfix.set(virtual_transport=LMTP)
                hung = [host.send(address(made, "slow", number), message()) for number in range(30)]
                wait_for(lambda: len(slow.requests) + len(postfix.deliveries()) == 30, what="places taken, and the deferrals")
                assert {(line.status, line.dsn) for line in postfix.deliveries()} == {("deferred", "4.4.1")}
                in_hand = len(slow.requests)
                assert 0 < in_hand <= 10
                sent = [host.send(address(made, "well", number), message()) for number in range(30)]
                lines = [host.delivered(queue_id)[0] for queue_id in sent]
                assert {(line.status, line.dsn) for line in lines} == {("sent", "2.0.0")}
                assert len(well.taken) == 30
                assert len(slow.requests) == slow.most == in_hand
                assert not slow.taken
                slow.behaviour = "kept"
                slow.told.set()
                for queue_id in hung:
                    host.delivered(queue_id)
                wait_for_empty_queue(postfix, timeout=60)
                assert len({each["id"] for each in slow.taken}) == len(slow.taken) == 30
        finally:
            slow.stop()
            host.end(signal.SIGKILL)
