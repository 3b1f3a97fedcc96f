"""The fingerprint of a run's examples: equal for equal ids and labels in the same order."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from .sequences import Example


class ExampleDigest:
    """SHA-256 over lengths, ids and labels, fed an example at a time."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, example: Example) -> None:
        """Count an example in."""
        self._hash.update(array("q", [len(example.input_ids), *example.input_ids, *example.labels]))

    def __str__(self) -> str:
        return self._hash.hexdigest()[:16]


def digest_of(examples: Sequence[Example]) -> str:
    """The fingerprint of examples; a token cache knows it unread."""
    known = getattr(examples, "digest", None)
    if known is not None:
        return known
    digest = ExampleDigest()
    for example in examples:
        digest.add(example)
    return str(digest)
