"""The coverage of the last `coverage run` by room: lines, those that ran, their share (`coverage report` has files)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parents[1]


def main() -> None:
    coverage = Coverage()
    coverage.load()
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for package in sorted(ROOT.glob("*/quantpress*")):
        for path in sorted(package.rglob("*.py")):
            _, lines, _, missing, _ = coverage.analysis2(str(path))
            for name in ("all", ".".join([package.name, *path.relative_to(package).parts[:-1]][:2])):
                rooms[name][0] += len(lines)
                rooms[name][1] += len(lines) - len(missing)
    print(f"{'room':32}{'lines':>8}{'ran':>8}{'share':>8}")
    for name, (lines_of, ran) in sorted(rooms.items(), key=lambda room: (room[0] == "all", room[0])):
        print(f"{name:32}{lines_of:8}{ran:8}{ran / max(lines_of, 1):8.0%}")


if __name__ == "__main__":
    main()
