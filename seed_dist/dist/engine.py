"""The DeepSpeed engine: ZeRO-2 with FusedAdam behind four verbs. The only file that imports deepspeed.

ZeRO-2 keeps, per parameter group, one flat fp32 master copy and its two Adam moments, cut into equal parts over the
ranks. `fragments()` shows this rank's part by parameter name, which is what checkpoints store and what code revival
writes to.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seed_dist.config import TrainConfig
from seed_dist.dist.build_ops import OP_NAME, ensure_built
from seed_dist.dist.comm import Comm
from seed_dist.faults import fault_point

ParameterGroups = list[dict[str, Any]]
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step did: `applied` is False when gradients were not finite on some rank: nothing changed."""

    applied: bool
    grad_norm: float  # of the averaged gradient before clipping; infinite when the step was not applied
    at_scale_floor: bool = False  # not applied, and the dynamic loss scale cannot become smaller


@dataclass(frozen=True)
class Fragment:
    """This rank's contiguous piece of one flattened parameter: views [n] into the fp32 master and both moments."""

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # first element of the piece
    master: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor


class Engine:
    """A module under ZeRO-2. `forward`, `backward` once per micro-batch, then one `step`."""

    def __init__(self, module: nn.Module, deepspeed_engine: Any, comm: Comm) -> None:
        self.module, self.comm = module, comm
        self._engine, self._zero = deepspeed_engine, deepspeed_engine.optimizer
        self.dtype = next(parameter.dtype for parameter in module.parameters() if parameter.requires_grad)
        self._groups: list[dict[str, Any]] = self._zero.optimizer.param_groups
        self._zero.loss_scaler.raise_error_at_min_scale = False  # the loop says more, and saves
        # FusedAdam creates its moments in the first step; we do so now, so that a checkpoint of step 0 has them too.
        for group in self._groups:
            master = group["params"][0]
            self._adam_state[master] = {"step": 0} | {key: torch.zeros_like(master) for key in MOMENTS}

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (mean over this rank's samples) and metrics of one micro-batch, already on the engine's device."""
        loss, metrics = self._engine(batch)
        return loss, metrics

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients. A loss that is not finite makes the whole step void on all ranks, see `step`.

        `0 * loss` is 0 for a finite loss and NaN otherwise, so the factor is exactly 1 or NaN; without it an infinite
        loss can have finite gradients.
        """
        self._engine.backward(loss * (1 + 0 * loss.detach()))
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # between micro-batches this only counts them

    def step(self, lr: float) -> StepResult:
        """Average gradients over ranks, clip, update. On all ranks nothing changes when any gradient was not finite:
        the norm of the averaged gradient, which all ranks share, decides."""
        for group in self._groups:
            group["lr"] = lr
        scale = self.loss_scale
        self._engine.step()
        norm, applied = self._engine.get_global_grad_norm(), bool(self._engine.was_step_applied())
        at_floor = not applied and scale == getattr(self._zero.loss_scaler, "min_scale", None)
        return StepResult(applied, float(norm) if norm is not None else float("nan"), at_floor)

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the engine's device, floating ones in its precision."""
        device = self.comm.device
        return {
            key: tensor.to(device, self.dtype if tensor.is_floating_point() else None, non_blocking=True)
            for key, tensor in batch.items()
        }

    @property
    def loss_scale(self) -> float:
        return float(self._zero.loss_scale)

    @property
    def _adam_state(self) -> dict[Tensor, dict[str, Any]]:
        return self._zero.optimizer.state

    def fragments(self) -> Iterator[Fragment]:
        """This rank's piece of every trainable parameter that it holds one of."""
        for name, parameter in self.module.named_parameters():
            mapping = getattr(parameter, "_hp_mapping", None)
            if not parameter.requires_grad or mapping is None:
                continue
            group = self._groups[mapping.param_group_index]
            state = self._adam_state[group["params"][0]]
            place = mapping.hp_fragment_address
            moments = (state[key].narrow(0, place.start, place.numel) for key in MOMENTS)
            yield Fragment(
                name, tuple(parameter.shape), mapping.lp_fragment_address.start, mapping.hp_fragment.data, *moments
            )

    def publish_masters(self) -> None:
        """Copy the fp32 masters into the module's parameters on all ranks; call after writing to fragments."""
        self._zero.update_lp_params()

    def overwrite_rows(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Replace rows [n] of the 2-D parameter `name` by `values` [n, width], in the module and in the fp32 master,
        and forget what Adam remembers of them. All ranks must pass equal arguments; nothing is communicated."""
        parameter = dict(self.module.named_parameters())[name]
        values = values.detach().to(parameter.device, torch.float32)
        with torch.no_grad():
            parameter[rows] = values.to(parameter.dtype)
            for fragment in self.fragments():
                if fragment.name == name:
                    _overwrite_fragment(fragment, rows, values)

    def widen(self) -> None:
        """Make what is trained fp32 with the exact masters on all ranks, for export. What is frozen stays as it is: it
        is in no export, and as fp32 a large language model would not fit. The engine cannot train after this."""
        if self.dtype == torch.float32:
            return
        trainable = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        full = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in trainable.items()}
        for fragment in self.fragments():
            full[fragment.name].view(-1)[fragment.start : fragment.start + fragment.master.numel()] = fragment.master
        for name, parameter in trainable.items():
            parameter.data = self.comm.sum(full[name])

    def scalar_state(self) -> dict[str, Any]:
        """What the optimizer remembers besides tensors: Adam's own step count and the dynamic loss scale."""
        scaler = self._zero.loss_scaler
        names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
        return {
            "adam_steps": [int(self._adam_state[group["params"][0]]["step"]) for group in self._groups],
            "loss_scaler": {name: getattr(scaler, name) for name in names if hasattr(scaler, name)},
        }

    def load_scalar_state(self, state: dict[str, Any]) -> None:
        """The reverse of `scalar_state`."""
        for group, steps in zip(self._groups, state["adam_steps"], strict=True):
            self._adam_state[group["params"][0]]["step"] = steps
        for name, value in state["loss_scaler"].items():
            setattr(self._zero.loss_scaler, name, value)


def _overwrite_fragment(fragment: Fragment, rows: Tensor, values: Tensor) -> None:
    """Scatter whole rows into the piece of them that this rank holds."""
    width = fragment.shape[1]
    positions = (rows.to(values.device)[:, None] * width + torch.arange(width, device=values.device)).flatten()
    positions = positions - fragment.start
    here = (positions >= 0) & (positions < fragment.master.numel())
    fragment.master[positions[here]] = values.flatten()[here]
    fragment.exp_avg[positions[here]] = 0
    fragment.exp_avg_sq[positions[here]] = 0


def start_engine(
    module: nn.Module, groups: ParameterGroups, training: TrainConfig, ds_config: dict[str, Any], comm: Comm
) -> Engine:
    """Put `module` (its trainable parameters in `groups`) under ZeRO-2 with FusedAdam.

    All ranks get rank 0's parameters. Needs an open process group (`seed_dist.dist.launch.open_comm`).
    """
    deepspeed = _import_deepspeed()
    if comm.device.type == "cpu":
        _load_fused_adam()
    from deepspeed.ops.adam import FusedAdam

    optimizer = FusedAdam(
        groups,
        lr=training.lr,
        betas=(training.beta1, training.beta2),
        eps=training.eps,
        weight_decay=training.weight_decay,
        adam_w_mode=True,
    )
    module.to(comm.device)
    for parameter in module.parameters():
        torch.distributed.broadcast(parameter.data, src=0)
    with _own_parameter_broadcast():
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=ds_config, dist_init_required=False)
    _set_fault_points(engine, optimizer, comm)
    return Engine(module, engine, comm)


def _set_fault_points(engine: Any, optimizer: Any, comm: Comm) -> None:
    """Where a test may make a rank fail inside DeepSpeed; `step` counts this process's own."""
    reduce = engine.optimizer.average_tensor

    def average_tensor(*arguments: Any) -> None:
        fault_point("engine.reduce", comm.rank, engine.global_steps)
        reduce(*arguments)

    engine.optimizer.average_tensor = average_tensor
    optimizer.register_step_post_hook(lambda *_: fault_point("engine.updated", comm.rank, engine.global_steps))


def compile_fused_adam(folder: Path) -> Path:
    """Have DeepSpeed compile its CPU FusedAdam in `folder`; the value is the library's path."""
    _import_deepspeed()
    from deepspeed.ops.op_builder.cpu import FusedAdamBuilder

    tools = str(Path(sys.executable).parent)  # pip's ninja, when the environment is not activated
    changes = {"TORCH_EXTENSIONS_DIR": str(folder), "PATH": os.pathsep.join([tools, os.environ.get("PATH", "")])}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        FusedAdamBuilder().load(verbose=False)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return folder / OP_NAME / f"{OP_NAME}.so"


def _load_fused_adam() -> None:
    """Give DeepSpeed the compiled op. Its own loader asks compiler and ninja every time, seconds per process."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    if OP_NAME in OpBuilder._loaded_ops:
        return
    path = ensure_built(compile_fused_adam)
    spec = importlib.util.spec_from_file_location(OP_NAME, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    OpBuilder._loaded_ops[OP_NAME] = SimpleNamespace(multi_tensor_adam=_without_memory(library.multi_tensor_adam))


def _without_memory(update: Callable[..., None]) -> Callable[..., None]:
    """The CPU kernel made a function of its arguments, which exact resume needs.

    It keeps beta^step between calls: consecutive steps multiply it on, anything else computes the power anew, and the
    two differ in the last digit. So a resumed run, whose first step follows none, would part from the undisturbed one.
    An update of a throw-away number under the next step's count makes it compute the power every time.
    """
    scrap = [[torch.zeros(1)] for _ in range(4)]  # gradient, parameter and both moments of one number

    def from_arguments(chunk: int, flag: Tensor, tensors: list[list[Tensor]], *numbers: Any) -> None:
        lr, beta1, beta2, eps, step, *rest = numbers
        update(chunk, flag, scrap, lr, beta1, beta2, eps, step + 1, *rest)
        update(chunk, flag, tensors, *numbers)

    return from_arguments


def _import_deepspeed() -> Any:
    """deepspeed without what it drags in: its autotuner imports mlflow (and so pandas), most of the time of the import.

    Its table of compatible ops is left empty: filling it starts compilers, and its one reader here would go on to
    compile a shared-memory collective that only inference uses.
    """
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
        import deepspeed.ops
    finally:
        if hidden:
            del sys.modules["mlflow"]
    _keep_compiler_out()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # skipped steps are reported by the loop, once and with why
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


def _keep_compiler_out() -> None:
    """Two seconds and 115 MiB of every rank: torch's compiler (dynamo, inductor, sympy), which nothing here uses.

    It is imported by who marks a function as never to be compiled, when that is called first, or as to be compiled,
    when that is defined: `torch.optim.Optimizer`, and DeepSpeed's Muon, which ZeRO-2 asks every tensor's optimizer for.
    """
    from deepspeed.runtime import compiler

    for method in (Optimizer.add_param_group, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        plain.__dynamo_disable = plain  # where torch/_compile.py keeps what it has marked
    compile_later, compiler.compile = compiler.compile, lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_later


@contextmanager
def _own_parameter_broadcast() -> Iterator[None]:
    """DeepSpeed broadcasts each parameter as bytes, which fails for scalars such as a temperature; we have done it."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    original = DeepSpeedEngine._broadcast_model
    DeepSpeedEngine._broadcast_model = lambda self: None
    try:
        yield
    finally:
        DeepSpeedEngine._broadcast_model = original
