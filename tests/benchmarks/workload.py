"""What every contender trains: a random GLM of a given shape, and rows of given lengths.

    67M           hidden 384, 8 layers, 6 heads of 64 in 2 groups, ffn 1,536, vocabulary 65,024:
                  67,251,584 parameters, 49.9 M of them in the two embeddings
    chatglm2-6b   the published shape, 6,243,584,000 parameters
    tiny          for tests of the benchmarks themselves

The rows stand for a public instruction set: prompts of 70.1 and targets of 100.9 tokens on
average (59 % of 171), each log-normal with sigma 0.5, cut at 400 and 300, paired at random.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from statistics import NormalDist

import torch
from transformers import GlmConfig, GlmForCausalLM

from loraglm_helpers.ledger import CHATGLM2_6B, GlmShape
from loraglm_helpers.sequences import IGNORED, Example

SHAPES = {
    "67M": GlmShape(65024, 384, 1536, 8, 6, 2, 64),
    "chatglm2-6b": CHATGLM2_6B,
    "tiny": GlmShape(320, 32, 48, 2, 4, 2, 16),
}
SOURCE, TARGET = 400, 300  # the seed's limits, special tokens included
MEAN_TOKENS, TARGET_SHARE, SIGMA = 171, 0.59, 0.5


@dataclass(frozen=True)
class Workload:
    """A model's shape, the number of rows, and the settings that all contenders share."""

    shape: str = "67M"
    rows: int = 128
    dropout: float = 0.1  # the seed's
    device: str = "cpu"
    batch_size: int = 8
    rank: int = 8
    alpha: int = 32
    learning_rate: float = 3e-5
    compiled: int = 0  # 1: ours with torch.compile

    @property
    def precision(self) -> str:
        """Of the frozen base: fp32 on a CPU, bf16 on a GPU."""
        return "fp32" if self.device == "cpu" else "bf16"

    @property
    def dtype(self) -> torch.dtype:
        """The same as a torch dtype."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def model(self) -> GlmForCausalLM:
        """Random weights, the same for every contender."""
        return random_glm(self.shape, self.device, self.dtype)

    def examples(self) -> list[Example]:
        """The rows as token ids; special ids do not occur inside."""
        return make_rows(self.rows, SHAPES[self.shape].vocab_size)


def random_glm(shape: str, device: str, dtype: torch.dtype) -> GlmForCausalLM:
    """A GlmForCausalLM with ChatGLM2's rotary settings, made where it will run."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = GlmConfig(
        **asdict(SHAPES[shape]),
        max_position_embeddings=32768,
        rope_parameters=rope,
        pad_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return GlmForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def log_normal_lengths(count: int, mean: float, limit: int) -> list[int]:
    """``count`` whole numbers at the even quantiles of a log-normal, cut at ``limit``.

    Scaled so that they sum to round(count · mean): no sampling noise, the same on any machine.
    """
    normal, total = NormalDist(0, SIGMA), round(count * mean)
    raw = [math.exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
    scale = total / sum(raw)
    for _ in range(50):  # what the cut takes away goes to the others
        scale *= total / sum(min(scale * x, limit) for x in raw)
    sums = [0.0]
    for x in raw:
        sums.append(sums[-1] + min(scale * x, limit))
    return [round(b) - round(a) for a, b in zip(sums, sums[1:], strict=False)]


def make_rows(count: int, vocabulary: int, seed: int = 0) -> list[Example]:
    """Random ids with labels on the target part only."""
    rng = random.Random(seed)
    prompts = log_normal_lengths(count, MEAN_TOKENS * (1 - TARGET_SHARE), SOURCE)
    targets = log_normal_lengths(count, MEAN_TOKENS * TARGET_SHARE, TARGET)
    rng.shuffle(prompts)
    rng.shuffle(targets)
    rows = []
    for prompt, target in zip(prompts, targets, strict=True):
        ids = [rng.randrange(259, vocabulary) for _ in range(prompt + target)]
        rows.append(Example(ids, [IGNORED] * prompt + ids[prompt:]))
    return rows
