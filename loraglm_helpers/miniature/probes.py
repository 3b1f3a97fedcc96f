"""What the miniature can do, measured on names and sentence patterns that it never saw.

    python -m loraglm_helpers.miniature.probes --model data/tiny-chatglm2 [--adapter DIR]

The last line is one JSON object: `copying` (passage questions answered exactly, on unseen names in
unseen sentence patterns), `copying_known_patterns` (unseen names in pre-training's patterns),
`lists_known_patterns` and `lists` (all facts of a passage listed exactly, by their number;
`lists_asked_above` with the request above the passage), `blanks` (filled exactly, where the text
says it twice), `well_formed` (continued sentences that match a pattern of the world), `tasks`
(exact match on the dev rows of the three tasks, with `--data`).
"""

from __future__ import annotations

import argparse
import json
import random
from typing import Any

from ..generation import generate
from . import wording, world
from .names import NEW_NAMES
from .objectives import Objectives
from .shapes import objects_with_keys
from .wellformed import well_formed

LAYOUTS = ("glm", "chatglm2")


def copying_accuracy(
    model: Any, tokenizer: Any, count: int = 200, seed: int = 1, split: str = "probe"
) -> float:
    """Share of `count` passage questions answered exactly.

    Names and patterns are those of `split`: "probe" has names of its own and dev's patterns,
    `names.NEW_NAMES` the same names in pre-training's patterns.
    """
    objectives, rng = Objectives(tokenizer, split), random.Random(seed)
    prompts, targets = [], []
    for _ in range(count):
        example = objectives.assemble(objectives.questions(rng), rng.choice(LAYOUTS))
        start = next(i for i, label in enumerate(example.labels) if label != -100)
        end = example.input_ids.index(tokenizer.eos_token_id)
        prompts.append(example.input_ids[:start])
        targets.append(tokenizer.decode(example.input_ids[start:end]))
    answers = generate(model, tokenizer, prompts, max_new_tokens=32)
    return sum(a == t for a, t in zip(answers, targets, strict=True)) / count


def list_accuracy(
    model: Any,
    tokenizer: Any,
    facts: int,
    count: int = 50,
    seed: int = 3,
    split: str = "probe",
    above: bool = False,
) -> float:
    """Share of `count` passages with `facts` facts of one subject that are listed exactly.

    The list is of objects whose three keys the request shows, below the passage or `above` it;
    `split` as for `copying_accuracy`.
    """
    objectives, rng = Objectives(tokenizer, split), random.Random(seed)
    prompts, targets = [], []
    while len(prompts) < count:
        passage = objectives.passage(rng, most_facts=facts, subjects=1, noise_rate=0.0)
        if len(passage.facts) == facts:
            request, answer = objects_with_keys(passage, rng)
            lines = (request, passage.text) if above else (passage.text, request)
            prompt = objectives.ids("{}\n{}\n".format(*lines))
            prompts.append([objectives.gmask, objectives.sop, *prompt])
            targets.append(tokenizer.decode(objectives.ids(answer)))
    answers = generate(model, tokenizer, prompts, max_new_tokens=60 * facts)
    return sum(a == t for a, t in zip(answers, targets, strict=True)) / count


def blank_accuracy(model: Any, tokenizer: Any, count: int = 200, seed: int = 4) -> float:
    """Share of `count` blanks filled exactly: a fact is told twice, one of its objects is blank."""
    objectives, rng = Objectives(tokenizer, "probe"), random.Random(seed)
    blanks = [objectives.repeats(rng) for _ in range(count)]
    prompts = [[*blank.part_a, objectives.sop] for blank in blanks]
    targets = [tokenizer.decode(blank.part_b) for blank in blanks]
    answers = generate(model, tokenizer, prompts, max_new_tokens=32)
    return sum(a == t for a, t in zip(answers, targets, strict=True)) / count


def continuation_accuracy(
    model: Any, tokenizer: Any, count: int = 200, seed: int = 2, short: bool = True
) -> float:
    """Share of `count` sentences, cut in their middle, that greedy continuation makes whole.

    They are of `world.short_patterns`, or of all where `short` is false; the names are the
    probe's. A sentence counts when it matches some pre-training pattern, with numbers, years and
    units where the pattern wants them.
    """
    known = world.short_patterns if short else world.patterns
    objectives, rng = Objectives(tokenizer, "probe"), random.Random(seed)
    prompts, starts = [], []
    for _ in range(count):
        language = rng.choice(("zh", "zh", "zh", "en"))
        entity = world.new_entity(language, "probe", rng)
        choices = known(language, entity.kind, "pretrain")
        pattern = rng.choice([p for p in choices if not p.continues])
        ids = objectives.ids(wording.plain(world.state(pattern, entity, rng)[0]))
        ids = ids[: rng.randint(len(ids) // 3, len(ids) * 2 // 3)]
        prompts.append([*ids, objectives.gmask, objectives.sop])
        starts.append((tokenizer.decode(ids), language))
    ends = generate(model, tokenizer, prompts, max_new_tokens=64)
    # An answer's text has lost the space in front of its first word.
    gaps = {"zh": ("",), "en": ("", " ")}
    whole = [
        any(well_formed(start + gap + end, language) for gap in gaps[language])
        for (start, language), end in zip(starts, ends, strict=True)
    ]
    return sum(whole) / count


def measure(model: Any, tokenizer: Any, count: int) -> dict[str, Any]:
    """All shares above but `tasks`: lists of `count` / 3 passages a length, the rest of `count`."""

    def lists(**how: Any) -> dict[int, float]:
        return {n: list_accuracy(model, tokenizer, n, max(1, count // 3), **how) for n in (1, 2, 3)}

    return {
        "copying": copying_accuracy(model, tokenizer, count),
        "copying_known_patterns": copying_accuracy(model, tokenizer, count, split=NEW_NAMES),
        "lists_known_patterns": lists(split=NEW_NAMES),
        "lists": lists(),
        "lists_asked_above": lists(above=True),
        "blanks": blank_accuracy(model, tokenizer, count),
        "well_formed": continuation_accuracy(model, tokenizer, count),
        "well_formed_any": continuation_accuracy(model, tokenizer, count, short=False),
    }


def main() -> None:
    """The command line."""
    from ..checkpoints import load_glm
    from ..config import preset
    from ..data import read_rows
    from ..generation import predict
    from ..lora import load_adapter
    from ..metrics import score
    from ..tokenizer import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="data/tiny-chatglm2")
    parser.add_argument("--adapter")
    parser.add_argument("--data", help="dev rows, to score the three tasks as well")
    parser.add_argument("--count", type=int, default=500)
    arguments = parser.parse_args()
    model, tokenizer = load_glm(arguments.model), load_tokenizer(arguments.model)
    if arguments.adapter:
        model = load_adapter(model, arguments.adapter)
    result = measure(model, tokenizer, arguments.count)
    if arguments.data:
        rows = read_rows(arguments.data)
        answers = predict(model, tokenizer, rows, preset("tiny"), progress=True)
        result["tasks"] = score(answers, rows)["exact_match"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
