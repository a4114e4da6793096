"""Options as words of a command line, for another process that is to be told the same."""

from __future__ import annotations


def words(**options: object) -> list[str]:
    """Options as words of a command line: flags that are set, lists repeated, nothing for what is not given."""
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [f"{option}={one}" for one in value]
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


def unless_auto(value: str) -> str | None:
    """Of an option whose default is auto."""
    return None if value == "auto" else value
