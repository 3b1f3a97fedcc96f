"""The optimizers of pre-training: Muon for the layers' matrices, AdamW for everything else.

Muon (Jordan et al. 2024) turns the momentum of a matrix into the nearest orthogonal one before it
is applied, which takes as long as a part of the step itself: each process does its share of the
matrices and sends them to the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from transformers import GlmForCausalLM

from ..processes import Processes
from .plan import PretrainConfig


class Optimizers:
    """Muon for this process's share of the layers' matrices, AdamW for everything else."""

    def __init__(self, model: GlmForCausalLM, config: PretrainConfig, processes: Processes) -> None:
        self.processes = processes
        matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
        self.matrices = matrices if config.muon else []
        known = {id(p) for p in self.matrices}
        rest = [p for p in model.parameters() if id(p) not in known]
        decayed = [p for p in rest if p.dim() == 2]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, config.embedding_rate, (0.9, 0.95), fused=True)
        self.peaks: dict[torch.optim.Optimizer, float] = {self.adamw: config.embedding_rate}
        self.own = self.matrices[processes.rank :: processes.world_size]
        if self.own:
            settings = {"weight_decay": config.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            self.muon = torch.optim.Muon(self.own, config.learning_rate, **settings)
            self.peaks[self.muon] = config.learning_rate

    def step(self, factor: float) -> None:
        """Apply the gradients at `factor` of the peak rates, then forget them."""
        for optimizer, peak in self.peaks.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
        if self.processes.world_size > 1:
            for index, matrix in enumerate(self.matrices):
                torch.distributed.broadcast(matrix.data, index % self.processes.world_size)
        for optimizer in self.peaks:
            optimizer.zero_grad(set_to_none=True)
        for matrix in self.matrices:
            matrix.grad = None

    def state(self) -> dict[str, Any]:
        """All processes' state; every process must ask for it, the main one gets it whole."""
        own = [self.muon.state[matrix] for matrix in self.own]
        shares: list[Any] = [own]
        if self.processes.world_size > 1:
            shares = [None] * self.processes.world_size
            torch.distributed.all_gather_object(shares, own)
        count = self.processes.world_size
        whole = [shares[i % count][i // count] for i in range(len(self.matrices))]
        return {"adamw": self.adamw.state_dict(), "muon": whole}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a run of any number of processes."""
        self.adamw.load_state_dict(state["adamw"])
        own = state["muon"][self.processes.rank :: self.processes.world_size]
        for matrix, kept in zip(self.own, own, strict=True):
            self.muon.state[matrix] = kept
