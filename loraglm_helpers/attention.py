"""Attention for padding-free batches: many examples in one row, each attending to itself only.

A batch of three examples is one row of shape (1, tokens); position ids restart at each example:

    position_ids  0 1 2 3 4 | 0 1 2 | 0 1 2 3        segments 5, 3, 4

``register()`` gives transformers an attention by the name ``padding_free`` and a mask function of
the same name. Choose it with ``model.set_attn_implementation(ATTENTION_NAME)``. Rows with a cache,
with an attention mask or with several rows a batch are sent to transformers' own SDPA, so one
model trains padding-free, evaluates padded batches and generates.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

ATTENTION_NAME = "padding_free"


def register() -> str:
    """Make ``padding_free`` known to transformers (any number of times); returns the name."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, attention_mask)
    return ATTENTION_NAME


def segment_lengths(position_ids: torch.Tensor) -> list[int]:
    """Lengths of the examples in a row of position ids (1, tokens) that restart at 0."""
    if position_ids.dim() != 2 or position_ids.shape[0] != 1:
        raise ValueError(f"position_ids of shape (1, tokens) wanted, not {(*position_ids.shape,)}")
    row = position_ids[0]
    starts = (row == 0).nonzero().flatten().tolist()
    if not starts or starts[0] != 0:
        starts = [0, *starts]
    return [b - a for a, b in zip(starts, [*starts[1:], row.numel()], strict=True)]


def attention_mask(batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> Any:
    """No mask for a whole row of examples; SDPA's own mask for everything else."""
    if batch_size == 1 and q_length == kv_length and kwargs.get("attention_mask") is None:
        return None
    return sdpa_mask(batch_size=batch_size, q_length=q_length, kv_length=kv_length, **kwargs)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    ``query`` (1, heads, tokens, head_dim), ``key`` and ``value`` (1, groups, tokens, head_dim);
    returns (1, tokens, heads, head_dim). Segments come from the keyword ``segments`` (``Segments``
    or lengths), else from ``position_ids``.
    """
    segments = kwargs.pop("segments", None)
    if attention_mask is not None or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if segments is None:
        positions = kwargs.get("position_ids")
        segments = [query.shape[2]] if positions is None else segment_lengths(positions)
    if not isinstance(segments, Segments):
        segments = Segments(tuple(segments))
    if value.is_cuda and not dropout and has_varlen(value.dtype):
        return varlen(query, key, value, segments, scaling), None
    return per_segment(query, key, value, segments.lengths, dropout, scaling), None


@dataclass(frozen=True)
class Segments:
    """Lengths of a row's examples; the same object serves every layer of a forward pass."""

    lengths: tuple[int, ...]
    _ends: dict[torch.device, torch.Tensor] = field(default_factory=dict, repr=False)

    def ends(self, device: torch.device) -> torch.Tensor:
        """0 and where each example ends, int32, made once a device."""
        if device not in self._ends:
            ends = torch.tensor([0, *self.lengths]).cumsum(0)
            self._ends[device] = ends.to(device, torch.int32)
        return self._ends[device]


@functools.cache
def has_varlen(dtype: torch.dtype) -> bool:
    """Whether torch's variable-length kernel takes this dtype here, with grouped heads."""
    if varlen_attn is None or dtype not in (torch.bfloat16, torch.float16):
        return False
    known = inspect.signature(varlen_attn).parameters
    ampere = torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)
    return ampere and {"window_size", "enable_gqa", "scale"} <= set(known)


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None = None,
) -> torch.Tensor:
    """All segments in one call of torch's variable-length kernel (CUDA, half precision)."""
    rows = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # (tokens, heads, d)
    ends, longest = segments.ends(query.device), max(segments.lengths)
    causal = (-1, 0)  # any number of tokens to the left, none to the right
    grouped = query.shape[1] != key.shape[1]
    return varlen_attn(
        *rows,
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=causal,
        enable_gqa=grouped,
    )[None]


def per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Sequence[int],
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    """One causal SDPA call a segment; ``split`` has a cheaper backward than slices.

    On a CPU the kernel's backward is three times slower in bfloat16 than in float32.
    """
    if value.device.type == "cpu" and value.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            rows = (x.float() for x in (query, key, value))
            return per_segment(*rows, segments, dropout, scaling).to(value.dtype)
    parts = zip(*(x.split(list(segments), dim=2) for x in (query, key, value)), strict=True)
    outs = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        ).transpose(1, 2)
        for q, k, v in parts
    ]
    return torch.cat(outs, dim=1)
