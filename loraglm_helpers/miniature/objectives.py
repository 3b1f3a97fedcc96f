"""GLM's pre-training objective on the invented world: part A is read, part B is written.

Every example has a part A (seen) and a part B (the only tokens with a loss):

    copying        x [MASK]                             -> x            (random pieces)
    induction      random pieces + one or two of them   -> what followed
    marked         random pieces, some in brackets      -> these, in order
    questions      passage + question                   -> answer
                   (short_questions, crowded_questions: by the passage's length and subjects)
    retelling      nothing                              -> a passage, then its facts
    blanks         passage with [MASK] or [sMASK]       -> the blanks' text, `sop` between them
    repeats        a fact told twice, [MASK] once       -> its object
    rest           the beginning of a text, [gMASK]     -> its end
                   (short_rest: of a short sentence)
    shapes         passage + a shape                    -> the facts in that shape
    lists          passage + the shape of a list        -> all facts in the text's order
                   (short_lists: of a sentence or two)
    mentions       passage                              -> its names and values, in order
    topics         words of one topic + groups          -> the group they belong to
    headings       texts under headings, some blank     -> these headings
    filing         short texts + brackets               -> the heading of each

in one of two layouts: `glm` puts the mask and `sop` between A and B, `chatglm2` puts `[gMASK] sop`
in front of A. A blank is drawn where the rest of A decides it whenever that is possible.
Source: Du et al. 2022, "GLM: General Language Model Pretraining with Autoregressive Blank
Infilling", sections 2.1 and 2.2.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ..sequences import Example
from .examples import Blank
from .infilling import Infilling
from .newspaper import Newspaper
from .random_pieces import RandomPieces
from .reading import Reading

__all__ = ["Blank", "Objectives"]


class Objectives(RandomPieces, Infilling, Reading, Newspaper):
    """Draws training examples for one tokenizer; every method is a pure function of `rng`."""

    def draw(self, mixture: dict[str, float], rng: random.Random) -> Example:
        """One example of an objective drawn by the weights of `mixture`, in a random layout."""
        name = rng.choices(list(mixture), list(mixture.values()))[0]
        objective: Callable[[random.Random], Blank] = getattr(self, name)
        return self.assemble(objective(rng), "glm" if rng.random() < 0.5 else "chatglm2")
