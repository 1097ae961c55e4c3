"""The run: hosts, one scenario after the other, every figure held against what it should be, a verdict; and nothing left.

Promises: exit status 0 only where every figure of every scenario is as expected; a scenario that cannot go on is one that failed;
the last line says how many there were.
Never: leaves a scenario out without a word.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.lab.fixtures import OWN
from tests.lab.machine import CHECKOUT, LabError
from tests.lab.post import Post
from tests.lab.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tests.lab.places import Places

__all__ = ["Course", "Scenario", "Verdict", "play"]

#: Characters of a figure that are shown.
_SHOWN: Final = 1500


@dataclass
class Verdict:
    """What a scenario showed."""

    figures: int = 0
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Course:
    """What a scenario has in hand."""

    def __init__(self, world: World, verdict: Verdict) -> None:
        self.world, self.controller, self.verdict = world, world.controller, verdict
        self.post = Post(world)
        self.checkout = CHECKOUT

    def expect(self, what: str, seen: object, wanted: object) -> bool:
        """One figure."""
        return self.hold(what, seen == wanted, f"expected {_short(wanted)}; actual {_short(seen)}", seen)

    def hold(self, what: str, true: bool, otherwise: str, seen: object = "") -> bool:
        """One figure that is not an equality; `otherwise` says what is there instead."""
        self.verdict.figures += 1
        if not true:
            self.verdict.wrong.append(f"{what}: {otherwise}")
        return true

    def note(self, text: str) -> None:
        """A line for whoever reads along."""
        self.verdict.notes.append(text)

    def none(self, what: str, found: Collection[Any]) -> None:
        """One figure: there is none of them."""
        self.hold(f"{what}: number", not found, f"expected 0; actual {len(found)}: {_short(list(found)[:5])}")


@dataclass(frozen=True)
class Scenario:
    """One thing that is shown. `hosts`: those that must stand; `full`: in `make lab-full` only."""

    name: str
    title: str
    hosts: tuple[str, ...]
    play: Callable[[Course], None]
    full: bool = False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def play_one(world: World, scenario: Scenario) -> Verdict:
    """One scenario on the hosts that it needs."""
    verdict = Verdict()
    try:
        world.have(*scenario.hosts)
        scenario.play(Course(world, verdict))
    except LabError as error:
        verdict.wrong.append(str(error))
    except Exception:  # a scenario that cannot go on has failed; the others are played all the same
        verdict.wrong.append(traceback.format_exc())
    return verdict


def play(places: Places, arguments: list[str], *, stays: bool = False) -> int:
    """`run [--full] [SCENARIO...]`: the exit status. `stays`: on hosts that are there, which are left there."""
    from tests.lab.scenarios import SCENARIOS

    full, names = "--full" in arguments, [each for each in arguments if each != "--full"]
    unknown = set(names) - {each.name for each in SCENARIOS}
    if unknown:
        raise LabError(f"no scenario is called {', '.join(sorted(unknown))}: {', '.join(each.name for each in SCENARIOS)}")
    chosen = [each for each in SCENARIOS if (each.name in names if names else full or not each.full)]
    if not stays and any("mx1" in each.hosts for each in chosen) and SCENARIOS[0] not in chosen:
        chosen.insert(0, SCENARIOS[0])  # it makes mail hosts of mx1 and mx2
    world, start, good = World(places), time.monotonic(), 0
    if not stays:
        world.clean()
    try:
        suites = dict.fromkeys(["bookworm", *(world.guest(host).address.suite for each in chosen for host in each.hosts)])
        if not stays:
            world.build(*suites)
        _say(f"lab: {', '.join(OWN)} are up after {time.monotonic() - start:.0f} s")
        for scenario in chosen:
            began = time.monotonic()
            verdict = play_one(world, scenario)
            _tell(scenario, verdict, time.monotonic() - began)
            good += not verdict.wrong
        if good < len(chosen):
            kept = (
                shutil.copy(places.folder / "ansible.log", f"/var/tmp/{places.name}-ansible.log")
                if (places.folder / "ansible.log").exists()
                else ""
            )
            _say(f"lab: Ansible's words are in {kept}" if kept else "lab: Ansible was not asked")
    finally:
        if not stays:
            world.clean()
    _say(f"lab: {time.monotonic() - start:.0f} s")
    _say(f"lab: {good} of {len(chosen)} as expected")
    return 0 if good == len(chosen) else 1


def _tell(scenario: Scenario, verdict: Verdict, seconds: float) -> None:
    _say(
        f"{'ok  ' if not verdict.wrong else 'BAD '} {scenario.name:<12} {verdict.figures:>3} figures {seconds:>4.0f} s  {scenario.title}"
    )
    for line in verdict.notes:
        _say(f"        {line}")
    for line in verdict.wrong:
        _say("     !! " + line.replace("\n", "\n        "))


def _say(line: str) -> None:
    print(line)
    sys.stdout.flush()
