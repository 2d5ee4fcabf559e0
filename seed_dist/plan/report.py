"""A plan as text: a table per stage, with ranges and no more digits than the assumptions are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seed_dist.plan.comparison import Row
from seed_dist.plan.planner import Plan, Scale
from seed_dist.plan.request import Range
from seed_dist.plan.stage import StagePlan

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_WRITTEN_OUT = 1e7
_FULL = 0.9  # of the memory: the rest goes into what is not counted
Pairs = Sequence[tuple[str, str]]


def number(value: float, unit: str = "", digits: int = 3) -> str:
    """1234567 B -> 1.23 MB."""
    size, letter = next(((size, letter) for size, letter in _UNITS if abs(value) >= size), (1.0, ""))
    return f"{_digits(value / size, digits)} {letter}{unit}".rstrip()


def between(values: Range, unit: str = "", digits: int = 2) -> str:
    """Two ends in one unit, or one where they are the same to so many digits. Small counts are written out."""
    low, high = values
    is_count = not unit.startswith("B") and high < _WRITTEN_OUT
    size, letter = next(((size, letter) for size, letter in _UNITS if high >= size and not is_count), (1.0, ""))
    texts = [_digits(value / size, digits) for value in (low, high)]
    joined = texts[0] if texts[0] == texts[1] else " to ".join(texts)
    return f"{joined} {letter}{unit}".rstrip()


def duration(seconds: Range) -> str:
    """In the unit that fits the longer one."""
    units = ((3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(((size, unit) for size, unit in units if seconds[1] >= 2 * size), (1e-3, "ms"))
    texts = [_digits(value / size, 2) for value in seconds]
    return f"{texts[0] if texts[0] == texts[1] else ' to '.join(texts)} {unit}"


def _seconds(hours: Range) -> Range:
    return hours[0] * 3600, hours[1] * 3600


def _digits(value: float, digits: int) -> str:
    text = f"{float(f'{value:.{digits}g}'):,f}".rstrip("0").rstrip(".") if value else "0"
    return text


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell; the last is not filled up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
             for row in rows)  # fmt: skip
    return "\n".join(f"  {line}".rstrip() for line in lines)


def plan_text(plan: Plan) -> str:
    head = (
        f"{plan.recipe} on {plan.nodes} x {plan.gpus} {plan.hardware}, {plan.precision}, {plan.pairs:,} pairs in "
        f"{plan.shards:,} shards ({_digits(plan.shards_per_rank, 3)} per rank), "
        f"index {number(plan.index_bytes, 'B', 2)}"
    )
    parts = [head, f"encoding, on one GPU\n{_encoding(plan)}"]
    parts += [f"{stage.stage}\n{table(_stage(stage, plan))}" for stage in plan.stages]
    if plan.alternatives:
        parts.append(
            f"online or cached (GPU-hours: the recipe's steps, and making the features once)\n{_alternatives(plan)}"
        )
    rows = [(item["what"], item["value"], item["source"]) for item in plan.assumptions]
    parts.append(f"assumed\n{table(rows)}")
    return "\n\n".join(parts)


def _encoding(plan: Plan) -> str:
    rows: list[Sequence[str]] = [("target", "FLOP/image", "on disk", "time", "limited by")]
    for part in plan.encoding:
        hours = "not known" if part.gpu_hours is None else duration(_seconds(part.gpu_hours))
        flops = number(part.flops_per_sample) if part.flops_per_sample else "not known"
        rows.append((part.target, flops, number(part.set_bytes, "B"), hours, limit(part.limited_by)))
    return table(rows)


def limit(by: tuple[str, str] | None) -> str:
    """What the fast and the slow end wait for."""
    if by is None:
        return ""
    fast, slow = by
    return fast if fast == slow else f"{fast} at the fast end, {slow} at the slow one"


def _stage(stage: StagePlan, plan: Plan) -> Pairs:
    memory, checkpoints = stage.memory_bytes, stage.checkpoints
    used = sum(memory.values())
    negatives = "" if stage.negatives_per_anchor is None else f", {stage.negatives_per_anchor:,} negatives per anchor"
    operations = {name: number(part.both) for name, part in stage.flops_per_sample.items()}
    total = sum(part.both for part in stage.flops_per_sample.values())
    requeues = " to ".join(str(count) for count in dict.fromkeys(stage.requeues))
    full = "" if used <= _FULL * plan.gpu_memory_bytes else "; DOES NOT FIT: raise accumulation or use more GPUs"
    gpu_hours = between(stage.gpu_hours)
    best = " to ".join(f"{steps:,}" for steps in dict.fromkeys(checkpoints.daly_steps))
    passes = _joined({split: _digits(value, 3) for split, value in stage.passes_of.items()})
    of_splits = f" ({passes})" if passes else ""
    price = "" if stage.price is None else f", price {between(stage.price)}"
    return [
        ("steps", f"{stage.steps:,} of {stage.samples // stage.steps:,} samples ({stage.micro_batch} per GPU at a time)"
         f"{negatives}"),
        ("samples", f"{number(stage.samples)}, {_digits(stage.passes, 2)} passes{of_splits}"),
        ("parameters", f"{number(sum(stage.trained.values()), digits=4)} trained ({_named(stage.trained)}), "
         f"{number(stage.frozen)} frozen"),
        ("FLOP/sample", f"{number(total)} ({_joined(operations)})"),
        ("GPU memory", f"{number(used, 'B', 2)} of {number(plan.gpu_memory_bytes, 'B', 2)} ({_named(memory, 'B')})"
         f"{full}"),
        ("features", f"{number(stage.read_bytes_per_sample, 'B')}/sample"),
        ("network", f"{number(stage.network_rank_bytes, 'B')}/step and rank, "
         f"{number(stage.network_node_bytes, 'B')}/step and node"),
        ("step", f"{duration(stage.step_s)}, "
         f"{between(stage.samples_per_s)} samples/s"),
        ("time", f"{duration(_seconds(stage.hours))}, {gpu_hours} GPU-hours{price}"),
        ("requeues", f"{requeues} at {plan.wall_limit_hours:g} h"),
        ("checkpoint", f"{number(checkpoints.bytes, 'B')}, at most {number(checkpoints.kept_bytes, 'B')} kept; saved "
         f"every {duration(checkpoints.recipe_interval_s)}; best {duration((checkpoints.daly_interval_s,) * 2)} "
         f"({best} steps; Daly 2006)"),
        ("limited by", _verdict(stage, plan)),
    ]  # fmt: skip


def _verdict(stage: StagePlan, plan: Plan) -> str:
    """What it waits for, and what it would need not to."""
    needed = {"compute": "", "storage": f" ({between(stage.node_read_bytes_s, 'B/s')} needed per node, "
              f"{number(plan.storage_bytes_s, 'B/s')} available)",
              "network": f" ({between(stage.node_network_bytes_s, 'B/s')} needed per node, "
              f"{number(plan.network_bytes_s, 'B/s')} available)"}  # fmt: skip
    fast, slow = stage.limited_by
    if fast == slow:
        return f"{fast}{needed[fast]}"
    return f"{fast}{needed[fast]} at the fast end, {slow}{needed[slow]} at the slow one"


def _named(values: Mapping[str, int], unit: str = "") -> str:
    """Those that are at least a hundredth of all."""
    least = sum(values.values()) / 100
    return _joined({name: number(value, unit, 2) for name, value in values.items() if value >= least})


def _joined(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _alternatives(plan: Plan) -> str:
    rows: list[Sequence[str]] = [
        ("stage", "inputs", "FLOP/sample", "read/sample", "samples/s and GPU", "GPU-hours", "limited by")
    ]
    rows += [
        (way.stage, way.inputs, number(way.flops_per_sample), number(way.read_bytes_per_sample, "B"),
         between(way.samples_per_s), between(way.gpu_hours), limit(way.limited_by))
        for way in plan.alternatives
    ]  # fmt: skip
    return table(rows)


def scale_text(scales: Sequence[Scale]) -> str:
    """A row per size of data."""
    stages = list(scales[0].pass_hours)
    rows: list[Sequence[str]] = [
        ("pairs", "patches", "causal", "index", "encoding, GPU-hours", *(f"one pass of {stage}" for stage in stages))
    ]
    for scale in scales:
        encoding = "not known" if scale.encode_gpu_hours is None else between(scale.encode_gpu_hours)
        sizes = (number(size, "B") for size in (scale.patches_bytes, scale.causal_bytes, scale.index_bytes))
        passes = (duration(_seconds(scale.pass_hours[stage])) for stage in stages)
        rows.append((number(scale.pairs), *sizes, encoding, *passes))
    return table(rows)


def comparison_text(rows: Sequence[Row]) -> str:
    """Planned beside actual; the last column is actual by planned, or by the nearer end where it is outside."""
    lines: list[Sequence[str]] = [("quantity", "planned", "actual", "actual / planned")]
    for row in rows:
        low, high = row.planned
        inside = low <= row.actual <= high
        nearer = low if row.actual < low else high
        ratio = "within" if inside else _digits(row.actual / nearer, 3)
        lines.append((row.quantity, between(row.planned, row.unit, 3), number(row.actual, row.unit), ratio))
    return table(lines)
