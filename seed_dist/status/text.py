"""Facts as lines for a terminal."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from seed_dist.obs.progress import format_seconds
from seed_dist.status.facts import Facts
from seed_dist.status.nodes import NodeMemory

_INCIDENTS_SHOWN = 12  # the last ones
_NODES_SHOWN = 8
_OWN_LINES = frozenset({"own_s", "lr", "grad_norm", "loss_scale", "samples_per_s", "step_s", "data_wait_s"})
_USAGE, _PERPLEXITY = "codes_used_fraction", "codes_perplexity"
_GIB = 2**30
_VALUE_WIDTH = 100


def status_text(facts: Facts) -> str:
    """A headline and a line for each fact that is known."""
    told = [(name, value) for name, value in _lines(facts) if value]
    width = max(len(name) for name, _ in told)
    lines = [f"{facts.run}: {facts.state} ({facts.why})"]
    for name, value in told:
        first, *rest = textwrap.wrap(value, _VALUE_WIDTH)
        lines += [f"  {name:<{width}}  {first}", *(f"  {'':<{width}}  {more}" for more in rest)]
    lines += [f"  {what}" for what in incident_lines(facts.incidents)]
    return "\n".join(map(printable, lines))


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "stage", facts.stage
    yield "step", f"{facts.step:,} of {facts.steps:,} ({share(facts.step, facts.steps)})"
    yield "time left", format_seconds(facts.left_s) if facts.left_s is not None else ""
    yield "last line", f"{ago(facts.silent_s)}" if facts.silent_s is not None else ""
    yield "losses", named(losses(facts.figures))
    yield (
        "validation",
        f"{named(of_validation(facts.validation))}, at step {facts.validation_step:,}" if facts.validation else "",
    )
    yield "reference", facts.reference.words()
    yield "learning rate", number(facts.figures.get("lr"))
    yield "gradient norm", number(facts.figures.get("grad_norm"))
    yield "loss scale", number(facts.figures.get("loss_scale"))
    yield "skipped steps", f"{facts.skipped:,}"
    yield "codebook", codebook(facts.figures)
    yield "unused codes", code_ages(facts.figures)
    yield "distances", code_distances(facts.validation)
    yield "speed", speed(facts)
    yield "peak memory", f"{facts.memory_bytes / _GIB:.2f} GiB" if facts.memory_bytes else ""
    for node in facts.nodes[:_NODES_SHOWN]:
        yield f"memory of {node.host}", memory(node)
    if len(facts.nodes) > _NODES_SHOWN:
        yield "further nodes", f"{len(facts.nodes) - _NODES_SHOWN:,}; --json lists them"
    yield "checkpoint", checkpoint(facts.checkpoint)
    for number_, attempt in enumerate(facts.attempts, 1):
        yield f"attempt {number_}", attempt_words(attempt)


def losses(figures: Mapping[str, float]) -> dict[str, float]:
    """Loss and its parts: all that is logged of a step beside what has a line of its own."""
    return {name: value for name, value in figures.items() if name not in _OWN_LINES and not name.startswith("codes_")}


def of_validation(figures: Mapping[str, float]) -> dict[str, float]:
    """All that has no line of its own."""
    return {name: value for name, value in figures.items() if not name.startswith("codes_near")}


def codebook(figures: Mapping[str, float]) -> str:
    if _USAGE not in figures:
        return ""
    return f"{figures[_USAGE]:.1%} of the codes in use, perplexity {number(figures.get(_PERPLEXITY))}"


def code_ages(figures: Mapping[str, float]) -> str:
    """For how long codes were not used."""
    if "codes_age_oldest" not in figures:
        return ""
    median, p90, oldest, dead = (
        number(figures.get(f"codes_{name}")) for name in ("age_median", "age_p90", "age_oldest", "dead")
    )
    return f"not used for {median} steps (median of codes), {p90} (90 %), {oldest} (longest); {dead} dead"


def code_distances(validation: Mapping[str, float]) -> str:
    """Of each code to its nearest other one."""
    if "codes_nearest_median" not in validation:
        return ""
    p5, median, p95 = (number(validation.get(f"codes_nearest_{name}")) for name in ("p5", "median", "p95"))
    near = number(validation.get("codes_near_duplicates"))
    return f"to the nearest other code {median} (median), {p5} to {p95} for 90 % of codes; {near} near-duplicates"


def memory(node: NodeMemory) -> str:
    """Host and fullest GPU of a node, at its newest sample."""
    text = f"{node.host_used_bytes / _GIB:.1f} of {node.host_total_bytes / _GIB:.1f} GiB"
    if node.gpu_used_bytes is not None and node.gpu_total_bytes is not None:
        text += f", fullest GPU {node.gpu_used_bytes / _GIB:.1f} of {node.gpu_total_bytes / _GIB:.1f} GiB"
    return f"{text}, {ago(node.age_s)}"


def speed(facts: Facts) -> str:
    if "samples_per_s" not in facts.figures:
        return ""
    wait = f", {facts.data_wait_share:.1%} of it waiting for data" if facts.data_wait_share is not None else ""
    step_s = facts.figures.get("step_s")
    return f"{facts.figures['samples_per_s']:,.1f} samples/s; a step takes {number(step_s)} s{wait}"


def checkpoint(saved: Mapping[str, Any] | None) -> str:
    if saved is None:
        return "none yet"
    took = f", saved in {number(saved['seconds'])} s" if saved.get("seconds") is not None else ""
    return f"{saved['path']}, {ago(saved['age_s'])}{took}"


def attempt_words(attempt: Mapping[str, Any]) -> str:
    """Where and when it began."""
    job = f", SLURM job {attempt['slurm_job']}" if attempt["slurm_job"] else ""
    hosts = ", ".join(attempt["hosts"][:8]) + (" ..." if len(attempt["hosts"]) > 8 else "")
    return f"from step {attempt['step']:,}, {attempt['world_size']} rank(s) on {hosts}{job}, {clock(attempt['time_s'])}"


def incident_lines(incidents: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last ones, in order."""
    earlier = len(incidents) - _INCIDENTS_SHOWN
    lines = [f"{earlier} earlier incident(s)"] if earlier > 0 else []
    return lines + [incident_words(one) for one in incidents[-_INCIDENTS_SHOWN:]]


def incident_words(incident: Mapping[str, Any]) -> str:
    step = "-" if incident["step"] is None else f"{incident['step']:,}"
    what = f": {incident['what']}" if incident["what"] else ""
    return f"{clock(incident['time_s'])}  step {step}  {incident['kind']}{what}"


def named(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def ago(seconds: float) -> str:
    return f"{format_seconds(max(0.0, seconds))} ago"


def clock(time_s: float | None) -> str:
    """Local time of this machine."""
    return "-" if time_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def printable(text: str) -> str:
    """Without control characters: what comes from files must not steer a terminal."""
    return "".join(_plain(text))


def _plain(text: Iterable[str]) -> Iterator[str]:
    return (character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
