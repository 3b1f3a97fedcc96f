"""Tokenised rows on disk: made once, then mapped; an example is decoded when it is asked for.

    FOLDER/KEY/ids.bin      int32: the input_ids of all examples, end to end
    FOLDER/KEY/labels.bin   int32: their labels, of each from its first target token on
    FOLDER/KEY/index.bin    int64 (examples, 3): end in ids.bin, end in labels.bin, target tokens
    FOLDER/KEY/cache.json   what it was made from, the number of examples, the files' SHA-256
    FOLDER/KEY.lock         held by the process that makes the cache; the others wait

KEY is a hash of the data file's content, the tokenizer, the layout, the limits and the code that
builds sequences: whatever changes, another cache is made, and the old one stays until you delete
its folder. A cache appears whole or not at all, and is made anew when a file in it is damaged.
"""

from __future__ import annotations

import json
import mmap
import warnings
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .file_lock import locked
from .sequences import IGNORED, Example
from .token_cache_key import TokenCacheError, file_hash, key_of, made_from
from .token_cache_writer import FACTS, IDS, INDEX, LABELS, write_cache

__all__ = ["TokenCache", "TokenCacheError", "TokenCacheWarning", "cached_examples"]
READS = 64  # after so many the pages are given back: a read may map 2 MB of a file at once


class TokenCacheWarning(UserWarning):
    """A damaged cache is made anew."""


class TokenCache(Sequence[Example]):
    """The examples in a cache's folder, in the order of the rows.

    ``lengths`` and ``targets`` (tokens and target tokens of each) are in memory: with the index,
    24 bytes an example. ``digest`` is the fingerprint of all. Raises TokenCacheError when a file
    is missing or damaged; every file is read once to know, about a second a gigabyte.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.digest: str = _checked_facts(self.folder)["digest"]
        index = np.fromfile(self.folder / INDEX, np.int64).reshape(-1, 3)
        self.targets = array("i", index[:, 2].astype(np.intc).tobytes())
        self._ends = np.vstack([np.zeros((1, 2), np.int64), index[:, :2]])
        self.lengths = array("i", np.diff(self._ends[:, 0]).astype(np.intc).tobytes())
        self._ids, self._labels = _Mapped(self.folder / IDS), _Mapped(self.folder / LABELS)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, at: int | slice) -> Any:
        """An example; for a slice a list of examples."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        length = self.lengths[at]
        at = range(len(self))[at]  # from the front
        (id_start, label_start), (id_end, label_end) = self._ends[at : at + 2].tolist()
        tail = self._labels.part(label_start, label_end)
        return Example(self._ids.part(id_start, id_end), [IGNORED] * (length - len(tail)) + tail)


class _Mapped:
    """The int32 numbers of a file, in the system's page cache and not in this process's memory."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._numbers, self._reads = np.frombuffer(self._map, np.intc), 0

    def part(self, start: int, end: int) -> list[int]:
        """The numbers from ``start`` up to ``end``."""
        self._reads += 1
        if self._reads % READS == 0 and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)  # read-only: nothing can be lost
        return self._numbers[start:end].tolist()


def cached_examples(path: str | Path, tokenizer: Any, config: Any) -> TokenCache:
    """The examples of a data file from ``config.token_cache``, made first where they are not there.

    Of several processes that want the same cache one makes it. The same examples as
    ``build_examples`` of each row. Raises DataError for bad rows and TokenCacheError when the
    cache cannot be written; warns (TokenCacheWarning) when a damaged one is replaced.
    """
    ingredients = made_from(path, tokenizer, config)
    folder = Path(config.token_cache).expanduser() / key_of(ingredients)
    with suppress(TokenCacheError):
        return TokenCache(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(folder.name + ".lock")):
            if not _is_whole(folder):
                write_cache(folder, path, tokenizer, config, ingredients)
    except OSError as error:
        reason = error.strerror or error
        raise TokenCacheError(
            f"token_cache: {folder.parent} cannot be written ({reason}); choose another folder, "
            "or set token_cache to none"
        ) from error
    return TokenCache(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a cache is there: another process may have made it by now. Warns of damage."""
    if not folder.exists():
        return False
    try:
        _checked_facts(folder)
    except TokenCacheError as error:
        warnings.warn(f"{error}; it is made anew", TokenCacheWarning, stacklevel=3)
        return False
    return True


def _checked_facts(folder: Path) -> dict[str, Any]:
    """What cache.json says, once every file has been found as it says."""
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        sums = facts["sha256"].items()
        wrong = [name for name, known in sums if file_hash(folder / name) != known]
    except OSError as error:
        missing = Path(error.filename or folder).name
        raise TokenCacheError(f"{folder}: {missing} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise TokenCacheError(f"{folder / FACTS}: damaged") from error
    if wrong:
        raise TokenCacheError(f"{folder / wrong[0]}: damaged")
    return facts
