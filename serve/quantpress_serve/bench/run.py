"""The cells of a bench: two servers loaded in turns, level by level and round by round."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field

from quantpress.artifact.throughput import BASELINE, CANDIDATE, Cell, Saturated
from quantpress.errors import StageError
from quantpress.runtime import console
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.server.server import Server
from quantpress_serve.workload.workload import Workload

# The concurrency rises no further once a step gains neither side more than this.
SATURATED = 0.05


@dataclass
class Run:
    """The cells of one bench, and what ended it early: a failure (`lost`), or a load that was enough (`saturated`).

    The servers are started `starts` times, and the rounds are shared out evenly among the starts.
    """

    load: Workload
    starts: int
    cells: list[Cell] = field(default_factory=list)
    lost: StageError | None = None
    saturated: Saturated | None = None
    base: int = field(default_factory=lambda: secrets.randbelow(2**31))

    def measure(self, generator: Generator, servers: dict[str, Server], start: int) -> None:
        """The rounds of one start of the servers, the two sides of a pair back to back.

        The side that goes first alternates from round to round, so over an even number of rounds neither gains from it.
        """
        share = self.load.rounds // self.starts
        for number in range(start * share, (start + 1) * share):
            for index, level in enumerate(self.load.levels):
                if self.saturated and level.concurrency in self.saturated.left_out:
                    continue
                roles = [role for role in (CANDIDATE, BASELINE) if role in servers]
                for role in roles if number % 2 == 0 else reversed(roles):
                    others = [other for name, other in servers.items() if name != role]
                    turn = Turn(role, level, number, self.base, start)
                    self.cells.append(generator.measure(servers[role], turn, others))
                if number == 0 and self.load.until_saturated and self._enough(index):
                    break

    def _enough(self, index: int) -> bool:
        """Whether neither side gained much from the last step of the concurrency."""
        levels = self.load.levels
        before, now = levels[index - 1].concurrency, levels[index].concurrency
        if not index or before is None or now is None:
            return False
        gained = growth(self.cells, before, now)
        if gained > SATURATED:
            return False
        left_out = [level.concurrency for level in levels[index + 1 :]]
        self.saturated = Saturated(concurrency=now, gained=gained, left_out=left_out)
        console.say(
            f"  saturated: from concurrency {before} to {now} output tokens/s changed by {gained:+.1%} at best"
            + (f"; {', '.join(map(str, left_out))} are left out" if left_out else "")
        )
        return True


def growth(cells: list[Cell], before: int, now: int) -> float:
    """Growth of output tokens/s from one concurrency to the next in the first round, on the side that gained more."""
    first = [cell for cell in cells if not cell.round]
    speeds = {(cell.role, cell.concurrency): cell.figures["output_throughput"] for cell in first}
    roles = {role for role, _ in speeds}
    return max(speeds[role, now] / speeds[role, before] - 1 if speeds[role, before] else math.inf for role in roles)
