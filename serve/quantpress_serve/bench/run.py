"""The cells of a bench: two servers loaded in turns, level by level and round by round."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from quantpress.artifact.speed import SATURATED, growth
from quantpress.artifact.throughput import ALTERNATING, ATTACHED, BASELINE, CANDIDATE, Cell, Saturated
from quantpress.errors import StageError
from quantpress.runtime import console
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.server.server import Server
from quantpress_serve.workload.workload import Level, Workload

ROLES = (CANDIDATE, BASELINE)


@dataclass
class Run:
    """The cells of one bench, and what ended it early: a failure (`lost`), or a load that was enough (`saturated`).

    Every server is started `starts` times, and the rounds are shared out evenly among the starts. A run that was
    stopped and went on has so many `sittings`.
    """

    load: Workload
    starts: int
    cells: list[Cell] = field(default_factory=list)
    lost: StageError | None = None
    saturated: Saturated | None = None
    base: int = field(default_factory=lambda: secrets.randbelow(2**31))
    sittings: int = 1
    _settled: set[str] = field(default_factory=set)  # sides that gained next to nothing from a step

    @property
    def started(self) -> int:
        """How many starts it has cells of."""
        return max((cell.start + 1 for cell in self.cells), default=0)

    @property
    def ended(self) -> str | None:
        """Why it is incomplete; None if it is not."""
        if self.lost:
            return self.lost.message
        return None if self.started == self.starts else f"it was stopped after start {self.started} of {self.starts}"

    def visits(self, pairing: str, start: int) -> Iterator[tuple[str, ...]]:
        """The sides whose servers are up at the same time, one visit after the other; the next one is known only when
        the one before has been measured.

        Side by side there is one visit. Alternating there are two, and the side that comes first alternates from start
        to start. In the first round the side that saturates later may then have seen more levels: the other one comes
        again for these.
        """
        if pairing != ALTERNATING:
            yield ROLES
            return
        for role in ROLES if start % 2 == 0 else reversed(ROLES):
            yield (role,)
        if start == 0 and (behind := [role for role in ROLES if self._reached(role) < self._furthest]):
            yield tuple(behind)

    def measure(self, generator: Generator, servers: dict[str, Server], start: int) -> None:
        """The rounds of one start of these servers, the two sides of a pair back to back if both are there.

        The side that goes first alternates from round to round, so over an even number of rounds neither gains from it.
        """
        share = self.load.rounds // self.starts
        for number in range(start * share, (start + 1) * share):
            for index, level in enumerate(self.load.levels):
                roles = [role for role in ROLES if role in servers and not self._has(role, level, number)]
                if number and self.saturated and level.concurrency in self.saturated.left_out:
                    continue
                for role in roles if number % 2 == 0 else reversed(roles):
                    others = [other for name, other in servers.items() if name != role]
                    turn = Turn(role, level, number, self.base, start)
                    self.cells.append(generator.measure(servers[role], turn, others))
                if number == 0 and self.load.until_saturated and self._enough(index, list(servers)):
                    break

    def _has(self, role: str, level: Level, number: int) -> bool:
        at = (role, level.concurrency, level.request_rate, number)
        return any((cell.role, *cell.load, cell.round) == at for cell in self.cells)

    def _reached(self, role: str) -> int:
        """The index of the last level that a side has seen in the first round; -1 for none."""
        return max((index for index, level in enumerate(self.load.levels) if self._has(role, level, 0)), default=-1)

    @property
    def _furthest(self) -> int:
        return max(map(self._reached, ROLES))

    def _enough(self, index: int, roles: list[str]) -> bool:
        """Whether the concurrency need rise no further for these sides: none gained much from the last step, or from an
        earlier one, and the other side has come no further."""
        before, now = (self.load.levels[at].concurrency for at in (index - 1, index))
        if not index or index < self._furthest or before is None or now is None:
            return False
        if self._settled.issuperset(roles):
            return True
        gained = max(growth([cell for cell in self.cells if not cell.round], role, before, now) for role in roles)
        if gained > SATURATED:
            self.saturated = None
            return False
        self._settled.update(roles)
        if self._settled.issuperset(cell.role for cell in self.cells):
            left_out = [level.concurrency for level in self.load.levels[index + 1 :]]
            self.saturated = Saturated(concurrency=now, gained=gained, left_out=left_out)
            whose = f"the {roles[0]} is " if len(roles) == 1 else ""
            rest = f"; {', '.join(map(str, left_out))} are left out" if left_out and len(roles) > 1 else ""
            step = f"from concurrency {before} to {now} output tokens/s changed by {gained:+.1%} at best"
            console.say(f"  {whose}saturated: {step}{rest}")
        return True


def times_started(load: Workload, pairing: str) -> int:
    """How often every server is started: one after the other, anew for every round, unless the workload shares several
    rounds out among several starts; servers of someone else not at all."""
    if pairing == ATTACHED:
        return 1
    if pairing == ALTERNATING:
        return load.starts if load.starts and load.starts > 1 else load.rounds
    return load.times_started
