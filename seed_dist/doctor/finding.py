"""What an examination says of one thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]
_SIGNS: dict[State, str] = {"ok": "ok      ", "warning": "warning ", "failed": "FAILED  "}


@dataclass(frozen=True)
class Finding:
    """`mend`: the command that mends it, empty where there is nothing to mend or no command does."""

    what: str
    state: State
    text: str
    mend: str = ""


def findings_text(findings: Sequence[Finding]) -> str:
    """A line each, and below it the command."""
    width = max(len(finding.what) for finding in findings)
    lines = []
    for one in findings:
        lines.append(f"{_SIGNS[one.state]} {one.what:<{width}}  {one.text}")
        lines += [f"{'':<{width + 11}}mend: {line}" for line in one.mend.splitlines()]
    return "\n".join(lines)


def has_failed(findings: Iterable[Finding]) -> bool:
    return any(finding.state == "failed" for finding in findings)
