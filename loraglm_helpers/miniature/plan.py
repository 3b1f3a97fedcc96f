"""The plan of the miniature's pre-training: its shape, its stages, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GlmConfig

Mixture = dict[str, float]

# Copying comes first: nothing else is learnt from a passage before a name can be carried over. Over
# the whole vocabulary at once it does not appear in 0.8 M tokens; over 256 pieces it does in 0.4 M,
# and from there each four times larger alphabet takes 0.2 M more.
FIRST_ALPHABET, GROWTH = 256, 4
LEARNT, FLUENT = 1.0, 0.15  # mean loss at which the alphabet grows; at which the stage ends
COPYING_ONLY: Mixture = {"copying": 1.0}
# (share of the tokens after copying up to which they hold, weights of the objectives). The rest of
# a text is left out at first: what nobody can foresee in it drowns the signal.
STAGES: tuple[tuple[float, Mixture], ...] = (
    (
        0.40,
        {"copying": 0.07, "induction": 0.13, "short_questions": 0.35, "questions": 0.30}
        | {"topics": 0.05, "blanks": 0.04, "shapes": 0.06},
    ),
    (
        1.0,
        {"copying": 0.03, "induction": 0.05, "questions": 0.30, "topics": 0.07}
        | {"blanks": 0.12, "shapes": 0.37, "rest": 0.06},
    ),
)


@dataclass
class PretrainConfig:
    """The miniature's shape and its schedule; `tokens` is the whole budget."""

    hidden_size: int = 256
    layers: int = 6
    heads: int = 8
    groups: int = 2
    intermediate_size: int = 704
    tokens: int = 10_000_000
    tokens_per_step: int = 2048
    learning_rate: float = 2e-3  # while copying is learnt
    fluent_rate: float = 6e-4  # afterwards
    warmup_steps: int = 50
    decay_share: float = 0.48
    weight_decay: float = 0.05
    seed: int = 0
    autocast: bool = True  # bfloat16 products: twice as fast where the CPU has them

    def shape(self, vocab_size: int) -> GlmConfig:
        """The ChatGLM2 architecture at this size, every field named."""
        return GlmConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            head_dim=self.hidden_size // self.heads,
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


def learning_rate(config: PretrainConfig, step: int, tokens: int, fluent: bool) -> float:
    """Warm-up by steps, constant, lower once copying is fluent, at last linear to zero.

    Questions have few target tokens a step, so their gradients are noisy: at 2e-3 and 1e-3 they
    wiped copying out (loss 0.2 -> 4.0 and 2.0 within 0.6 M tokens), at 6e-4 it stayed below 0.5.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = (config.tokens - tokens) / (config.decay_share * config.tokens)
    peak = config.fluent_rate if fluent else config.learning_rate
    return peak * warm * max(0.0, min(1.0, left))


def mixture_at(config: PretrainConfig, tokens: int, fluent_at: int) -> Mixture:
    """The objectives' weights after `tokens`, of which `fluent_at` went into copying."""
    share = (tokens - fluent_at) / max(1, config.tokens - fluent_at)
    return next((mixture for until, mixture in STAGES if share < until), STAGES[-1][1])
