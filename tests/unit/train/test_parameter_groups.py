"""Weight decay by shape and by name."""

from __future__ import annotations

from torch import nn

from seed_dist.train.parameter_groups import parameter_groups


class Example(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.ln_vision, self.columns = nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 3, bias=False)
        self.norm1, self.table = nn.Linear(3, 3, bias=False), nn.Embedding(5, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_biases_norms_and_named_parameters_are_not_decayed() -> None:
    module = Example()
    names = {id(value): name for name, value in module.named_parameters()}
    groups = parameter_groups(module, 0.05, without_decay=("table.weight",))
    found = {group["weight_decay"]: sorted(names[id(value)] for value in group["params"]) for group in groups}
    assert found == {
        0.05: ["columns.weight", "linear.weight"],
        0.0: ["linear.bias", "ln_vision.bias", "ln_vision.weight", "norm1.weight", "table.weight"],
    }


def test_there_is_no_empty_group() -> None:
    assert len(parameter_groups(nn.LayerNorm(3), 0.05)) == 1
