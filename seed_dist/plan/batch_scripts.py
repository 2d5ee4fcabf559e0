"""The batch scripts of `slurm/` with the plan's numbers in their `#SBATCH` lines and its recipe: no second template."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from seed_dist.plan.request import Cluster

SCRIPTS = Path(__file__).parents[2] / "slurm"
NAMES = ("encode", "tokenizer", "lora", "eval")
_ON_ALL_GPUS = ("tokenizer", "lora")


def batch_script(name: str, recipe: str, overrides: Sequence[str], cluster: Cluster) -> str:
    """The text to give to sbatch from the checkout. Scripts that use one GPU only get their time limit."""
    text = (SCRIPTS / f"{name}.sbatch").read_text()
    hours, minutes = divmod(round(cluster.wall_limit_hours * 60), 60)
    values = {"time": f"{hours:02d}:{minutes:02d}:00"}
    if name in _ON_ALL_GPUS:
        values |= {"nodes": str(cluster.nodes)}
        values |= dict.fromkeys(("ntasks-per-node", "gpus-per-node"), str(cluster.gpus))
    for option, value in values.items():
        text = re.sub(rf"^#SBATCH --{option}=.*$", f"#SBATCH --{option}={value}", text, flags=re.MULTILINE)
    text = text.replace("{RECIPE:-glyphs}", f"{{RECIPE:-{recipe}}}")
    if not overrides:
        return text
    words = shlex.join(word for item in overrides for word in ("--set", item))
    return re.sub(r"^set -euo pipefail$", lambda line: f'{line[0]}\nset -- {words} "$@"', text, flags=re.MULTILINE)
