"""The plan of the miniature's pre-training: its shape, its stages, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GlmConfig

Mixture = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """What is learnt until a share of the tokens (counted after copying), and in which steps."""

    until: float
    tokens_per_step: int
    mixture: Mixture


# Copying comes first: nothing else is learnt from a passage before a name can be carried over. A
# small alphabet shows the trick sooner; then the alphabet grows fourfold at a time.
FIRST_ALPHABET, GROWTH = 256, 4
LEARNT, FLUENT = 1.0, 0.25  # mean loss at which the alphabet grows; at which the stage ends
COPYING = Stage(0.0, 1024, {"copying": 1.0})
STAGES: tuple[Stage, ...] = (
    # The rest of a text is left out at first: what nobody can foresee in it drowns the signal.
    Stage(
        0.12,
        4096,
        {"copying": 0.10, "induction": 0.15, "short_questions": 0.45, "questions": 0.20}
        | {"headings": 0.05, "topics": 0.05},
    ),
    Stage(
        0.45,
        4096,
        {"copying": 0.03, "induction": 0.07, "short_questions": 0.15, "questions": 0.30}
        | {"headings": 0.08, "topics": 0.03, "blanks": 0.08, "shapes": 0.26},
    ),
    Stage(
        1.0,
        8192,
        {"copying": 0.02, "induction": 0.03, "short_questions": 0.08, "questions": 0.24}
        | {"headings": 0.10, "topics": 0.03, "blanks": 0.10, "shapes": 0.30, "rest": 0.10},
    ),
)
# At last, with a second and lower peak of the rate, what the first run left weak: telling every
# fact of a passage once and in order, and the topics, whose answers are short and so weigh little.
FINISH = Stage(
    1.0,
    8192,
    {"copying": 0.02, "induction": 0.03, "short_questions": 0.06, "questions": 0.14}
    | {"headings": 0.17, "blanks": 0.08, "shapes": 0.05, "lists": 0.40, "rest": 0.05},
)


@dataclass
class PretrainConfig:
    """The miniature's shape and its schedule; `tokens` is the budget before the finish."""

    hidden_size: int = 256
    layers: int = 6
    heads: int = 4
    groups: int = 2
    head_dim: int = 64
    intermediate_size: int = 704
    tokens: int = 23_000_000
    finish_tokens: int = 4_000_000
    finish_rate: float = 0.5  # share of the rates below
    learning_rate: float = 4e-3  # of Muon, for the layers' matrices
    embedding_rate: float = 2e-3  # of AdamW, for all the rest
    warmup_steps: int = 50
    decay_share: float = 0.76
    weight_decay: float = 0.05
    tied: bool = True  # one matrix for the input and the output embedding, while training
    muon: bool = True  # else AdamW trains the layers' matrices too
    seed: int = 0
    autocast: bool = True  # bfloat16 products: twice as fast where the CPU has them
    compiled: bool = True  # needs a C++ compiler

    def shape(self, vocab_size: int) -> GlmConfig:
        """The ChatGLM2 architecture at this size, every field named."""
        return GlmConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            head_dim=self.head_dim,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            attention_bias=True,
            attention_dropout=0.0,
            tie_word_embeddings=False,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=2,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        )


def rate_factor(config: PretrainConfig, step: int, tokens: int) -> float:
    """Share of the rates: warm-up, constant, linear to zero; then the finish's own fall."""
    if tokens >= config.tokens:
        done = (tokens - config.tokens) / max(1, config.finish_tokens)
        return config.finish_rate * max(0.0, min(20 * done + 0.05, 1 - done))
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.tokens - tokens) / (config.decay_share * config.tokens)
    return warm * max(0.0, min(1.0, left))


def stage_at(config: PretrainConfig, tokens: int, fluent_at: int) -> Stage:
    """The stage after `tokens`, of which the first `fluent_at` went into copying."""
    if tokens >= config.tokens:
        return FINISH
    share = (tokens - fluent_at) / max(1, config.tokens - fluent_at)
    return next((stage for stage in STAGES if share < stage.until), STAGES[-1])
