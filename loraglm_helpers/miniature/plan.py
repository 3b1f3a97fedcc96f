"""The plan of the miniature's pre-training: its shape, its stages, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GlmConfig

Mixture = dict[str, float]
PLANNED = 235.0  # million tokens of the whole run; a shorter run passes through the same stages
DEEPER_AT = 172.0  # million tokens of it after which layers are added (`deepening.deepen`)


@dataclass(frozen=True)
class Stage:
    """What is learnt until so many million tokens of PLANNED, in which steps, at which rates.

    `rates` are shares of the peak rates at the stage's start and end, with a line between them.
    """

    until: float
    tokens_per_step: int
    mixture: Mixture
    rates: tuple[float, float] = (1.0, 1.0)


# Copying comes first: nothing else is learnt from a passage before a name can be carried over. A
# small alphabet shows the trick sooner; then the alphabet grows fourfold at a time.
FIRST_ALPHABET, GROWTH = 256, 4
LEARNT, FLUENT = 1.0, 0.25  # mean loss at which the alphabet grows; at which the stage ends
COPYING = Stage(0.0, 1024, {"copying": 1.0})
# The second reading: whole passages are foretold, wording by wording, before they are asked about,
# and lists of every fact, headings and questions share the rest. Long lists alone did not teach
# which facts one sentence states, so a drill on short ones follows. And a list asks for the next
# item after each: like copying, that is learnt when it stands alone, on random pieces.
READING: Mixture = (
    {"retelling": 0.22, "short_questions": 0.06, "questions": 0.16, "lists": 0.26, "shapes": 0.05}
    | {"headings": 0.10, "topics": 0.02, "blanks": 0.05, "rest": 0.05}
    | {"induction": 0.02, "copying": 0.01}
)
DRILL: Mixture = (
    {"short_lists": 0.46, "mentions": 0.14, "marked": 0.10, "lists": 0.05, "retelling": 0.02}
    | {"short_questions": 0.07, "questions": 0.06, "headings": 0.07, "topics": 0.01, "rest": 0.02}
)
ORDER: Mixture = {"marked": 0.70, "mentions": 0.15, "short_lists": 0.10, "questions": 0.05}
LAST: Mixture = (
    {"short_lists": 0.20, "mentions": 0.05, "marked": 0.02, "lists": 0.25, "retelling": 0.06}
    | {"short_questions": 0.05, "questions": 0.12, "shapes": 0.02, "headings": 0.11}
    | {"topics": 0.01, "blanks": 0.03, "rest": 0.07, "copying": 0.01}
)
# The third reading: five times as many sentence patterns, met after a look back at the drills.
AGAIN: Mixture = (
    {"marked": 0.55, "copying": 0.10, "induction": 0.10}
    | {"mentions": 0.15, "lists": 0.10}
)
THIRD: Mixture = (
    {"short_lists": 0.15, "mentions": 0.05, "marked": 0.05, "lists": 0.27, "shapes": 0.03}
    | {"short_questions": 0.05, "questions": 0.14, "headings": 0.13, "topics": 0.01}
    | {"blanks": 0.02, "rest": 0.08, "induction": 0.01, "copying": 0.01}
)
# The fourth: the request stands in many frames, under any keys (`forms.framed`). Read in one frame
# only, lists fell apart as soon as the request came first, and LoRA had that to teach as well.
FOURTH: Mixture = (
    {"short_lists": 0.12, "mentions": 0.04, "marked": 0.03, "lists": 0.30, "shapes": 0.03}
    | {"short_questions": 0.05, "questions": 0.16, "headings": 0.10, "topics": 0.01}
    | {"blanks": 0.02, "rest": 0.10, "retelling": 0.02, "induction": 0.01, "copying": 0.01}
)
# The fifth: patterns leave a choice of words (`wording.chosen`), so that none is met twice alike.
FIFTH: Mixture = (
    {"short_lists": 0.14, "mentions": 0.03, "marked": 0.02, "lists": 0.34, "shapes": 0.03}
    | {"short_questions": 0.05, "questions": 0.18, "headings": 0.10, "topics": 0.01}
    | {"blanks": 0.02, "rest": 0.04, "retelling": 0.02, "induction": 0.01, "copying": 0.01}
)
# The sixth: blanks and ends of texts had been forgotten beside all the lists. Its passages are
# harder (`examples.HARDER`).
SIXTH: Mixture = (
    {"short_lists": 0.09, "mentions": 0.02, "marked": 0.01, "lists": 0.27, "shapes": 0.03}
    | {"short_questions": 0.05, "questions": 0.20, "headings": 0.07, "topics": 0.01}
    | {"repeats": 0.07, "blanks": 0.08, "rest": 0.06, "retelling": 0.02}
    | {"induction": 0.01, "copying": 0.01}
)
# The seventh, with two more layers: what still fails is passages about two or three things, so
# whole passages come more often.
SEVENTH: Mixture = (
    {"short_lists": 0.08, "mentions": 0.02, "marked": 0.01, "lists": 0.30, "shapes": 0.02}
    | {"short_questions": 0.03, "questions": 0.25, "headings": 0.09, "topics": 0.02}
    | {"repeats": 0.05, "blanks": 0.05, "rest": 0.05, "retelling": 0.01}
    | {"induction": 0.01, "copying": 0.01}
)
# The eighth: answers are short beside lists, so a quarter of the examples were questions, but only
# a tenth of the target tokens. Now they are a third, most of them on passages about several things.
EIGHTH: Mixture = (
    {"crowded_questions": 0.32, "questions": 0.20, "short_questions": 0.04}
    | {"lists": 0.15, "short_lists": 0.04, "shapes": 0.02, "headings": 0.09, "topics": 0.01}
    | {"repeats": 0.04, "blanks": 0.03, "rest": 0.03, "retelling": 0.01}
    | {"induction": 0.01, "copying": 0.01}
)
# Last, at low rates, a look back at lists, which LoRA builds on.
NINTH: Mixture = (
    {"crowded_questions": 0.22, "questions": 0.20, "short_questions": 0.03}
    | {"lists": 0.26, "short_lists": 0.08, "shapes": 0.02, "headings": 0.08, "topics": 0.01}
    | {"repeats": 0.03, "blanks": 0.02, "rest": 0.02, "retelling": 0.01}
    | {"induction": 0.01, "copying": 0.01}
)
# The tenth: short sentences to go on with, which it could not, and texts to file in any brackets:
# the English sections, named as single words only, had to be spelt anew inside a list's quotes.
TENTH: Mixture = (
    {"crowded_questions": 0.23, "questions": 0.13, "short_questions": 0.02}
    | {"lists": 0.16, "short_lists": 0.05, "shapes": 0.02, "headings": 0.03, "filing": 0.04}
    | {"topics": 0.01, "repeats": 0.03, "blanks": 0.02, "rest": 0.01, "short_rest": 0.22}
    | {"retelling": 0.01, "induction": 0.01, "copying": 0.01}
)
# Last again, more lists; and more short sentences, of which half were not well-formed yet.
ELEVENTH: Mixture = (
    {"crowded_questions": 0.17, "questions": 0.11, "short_questions": 0.02}
    | {"lists": 0.21, "short_lists": 0.06, "shapes": 0.02, "headings": 0.02, "filing": 0.03}
    | {"topics": 0.01, "repeats": 0.02, "blanks": 0.02, "rest": 0.01, "short_rest": 0.27}
    | {"retelling": 0.01, "induction": 0.01, "copying": 0.01}
)
STAGES: tuple[Stage, ...] = (
    # The rest of a text is left out at first: what nobody can foresee in it drowns the signal.
    Stage(
        3.5,
        4096,
        {"copying": 0.10, "induction": 0.15, "short_questions": 0.45, "questions": 0.20}
        | {"headings": 0.05, "topics": 0.05},
    ),
    Stage(
        11.0,
        4096,
        {"copying": 0.03, "induction": 0.07, "short_questions": 0.15, "questions": 0.30}
        | {"headings": 0.08, "topics": 0.03, "blanks": 0.08, "shapes": 0.26},
        rates=(1.0, 0.7),
    ),
    Stage(
        23.0,
        8192,
        {"copying": 0.02, "induction": 0.03, "short_questions": 0.08, "questions": 0.24}
        | {"headings": 0.10, "topics": 0.03, "blanks": 0.10, "shapes": 0.30, "rest": 0.10},
        rates=(0.7, 0.0),
    ),
    # Lower peaks of the rate follow. First for what was left weak: every fact once and in order.
    Stage(
        27.0,
        8192,
        {"copying": 0.02, "induction": 0.03, "short_questions": 0.06, "questions": 0.14}
        | {"headings": 0.17, "blanks": 0.08, "shapes": 0.05, "lists": 0.40, "rest": 0.05},
        rates=(0.5, 0.0),
    ),
    Stage(27.5, 4096, READING, rates=(0.02, 0.6)),
    Stage(34.0, 4096, READING, rates=(0.6, 0.43)),
    Stage(41.5, 4096, DRILL, rates=(0.43, 0.35)),
    Stage(43.5, 2048, ORDER, rates=(0.35, 0.35)),
    Stage(50.0, 4096, LAST, rates=(0.35, 0.0)),
    Stage(51.5, 2048, AGAIN, rates=(0.05, 0.5)),
    Stage(78.0, 4096, THIRD, rates=(0.5, 0.0)),
    Stage(78.6, 4096, FOURTH, rates=(0.05, 0.5)),
    Stage(105.0, 4096, FOURTH, rates=(0.5, 0.0)),
    Stage(105.6, 4096, FIFTH, rates=(0.05, 0.5)),
    Stage(142.0, 4096, FIFTH, rates=(0.5, 0.0)),
    Stage(142.6, 4096, SIXTH, rates=(0.05, 0.45)),
    Stage(DEEPER_AT, 4096, SIXTH, rates=(0.45, 0.0)),
    Stage(172.6, 4096, SEVENTH, rates=(0.05, 0.5)),
    Stage(192.0, 4096, SEVENTH, rates=(0.5, 0.0)),
    Stage(192.6, 4096, EIGHTH, rates=(0.05, 0.45)),
    Stage(200.0, 4096, EIGHTH, rates=(0.45, 0.234)),
    Stage(212.0, 4096, EIGHTH, rates=(0.234, 0.0)),
    Stage(213.5, 4096, NINTH, rates=(0.13, 0.0)),
    Stage(214.1, 4096, TENTH, rates=(0.05, 0.45)),
    Stage(224.0, 4096, TENTH, rates=(0.45, 0.19)),
    Stage(PLANNED, 4096, ELEVENTH, rates=(0.19, 0.0)),
)


@dataclass
class PretrainConfig:
    """The miniature's shape and its schedule; `tokens` is the budget of the whole run."""

    hidden_size: int = 256
    layers: int = 6
    added_layers: int = 2  # from DEEPER_AT on
    heads: int = 4
    groups: int = 2
    head_dim: int = 64
    intermediate_size: int = 704
    tokens: int = int(PLANNED * 1e6)
    learning_rate: float = 4e-3  # of Muon, for the layers' matrices
    embedding_rate: float = 2e-3  # of AdamW, for all the rest
    warmup_steps: int = 50
    weight_decay: float = 0.05
    tied: bool = True  # one matrix for the input and the output embedding, while training
    muon: bool = True  # else AdamW trains the layers' matrices too
    seed: int = 0
    autocast: bool = True  # bfloat16 products: twice as fast where the CPU has them
    compiled: bool = True  # needs a C++ compiler

    def shape(self, vocab_size: int, layers: int) -> GlmConfig:
        """The ChatGLM2 architecture at this size, every field named."""
        return GlmConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=layers,
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


def planned(config: PretrainConfig, tokens: int) -> float:
    """Where `tokens` stand in the plan, in millions: a shorter run is the plan in small."""
    return tokens / config.tokens * PLANNED


def stage_at(config: PretrainConfig, tokens: int) -> Stage:
    """The stage after `tokens`, once copying is fluent."""
    here = planned(config, tokens)
    return next((stage for stage in STAGES if here < stage.until), STAGES[-1])


def depth_at(config: PretrainConfig, tokens: int) -> int:
    """How many layers the model has after `tokens`."""
    return config.layers + (config.added_layers if planned(config, tokens) >= DEEPER_AT else 0)


def rate_factor(config: PretrainConfig, step: int, tokens: int) -> float:
    """Share of the peak rates: a warm-up over the first steps, then the stages' lines."""
    stage = stage_at(config, tokens)
    start = max((other.until for other in STAGES if other.until < stage.until), default=0.0)
    done = min(1.0, (planned(config, tokens) - start) / (stage.until - start))
    first, last = stage.rates
    return min(1.0, (step + 1) / config.warmup_steps) * (first + done * (last - first))
