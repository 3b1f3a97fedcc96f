"""Invented names and values, in Chinese and English, that no split shares with another.

A name belongs to one split for ever: the CRC-32 of its UTF-8 bytes decides. Pre-training, the LoRA
train rows, the dev rows and the probes can therefore draw from the same generators and never meet
each other's names. Values that are no names (years, prices, colours, ingredients) are shared.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from .pools import pool

SPLITS = ("pretrain", "train", "dev", "probe")
NEW_NAMES = "new names"  # a text with the probe's names in pre-training's sentence patterns
_BUCKETS = ("pretrain",) * 14 + ("train",) * 3 + ("dev",) * 2 + ("probe",)

Draw = Callable[[random.Random], str]


def split_of(name: str) -> str:
    """The split that owns `name`: "pretrain", "train", "dev" or "probe" (70, 15, 10, 5 %)."""
    return _BUCKETS[zlib.crc32(name.encode("utf-8")) % len(_BUCKETS)]


def _zh(name: str, rng: random.Random) -> str:
    return rng.choice(pool("zh", name))


def _en(name: str, rng: random.Random) -> str:
    return rng.choice(pool("en", name))


def _zh_person(rng: random.Random) -> str:
    length = 1 if rng.random() < 0.25 else 2
    return _zh("surname", rng) + "".join(_zh("given", rng) for _ in range(length))


def _zh_head(rng: random.Random) -> str:
    return "".join(rng.sample(pool("zh", "place_head"), 2))


def _zh_brand(rng: random.Random) -> str:
    return _zh("brand", rng) if rng.random() < 0.5 else _zh_head(rng)


def _zh_title(rng: random.Random) -> str:
    first, second, third = rng.sample(pool("zh", "title_word"), 3)
    shapes = (first, first + second, first + second, f"{first}的{second}", f"{first}与{second}")
    return rng.choice(
        (*shapes, first + second + third, f"{first}里的{second}", f"{first}之{second[0]}")
    )


def _zh_product_name(rng: random.Random) -> str:
    series = (f"{rng.choice('ABCDEFGKMPQRSTVXZ')}{rng.randint(1, 99)}", f"{rng.randint(2, 9)}代")
    return _zh("brand", rng) + _zh("product_noun", rng) + rng.choice((*series, "青春版", "Pro"))


def _zh_people(rng: random.Random) -> str:
    tens = (f"{rng.randint(20, 990)}人", f"{rng.randint(1000, 9900)}人")
    return rng.choice((*tens, f"{rng.randint(2, 60)}万人", f"{rng.uniform(1, 90):.1f}万人"))


def _zh_price(rng: random.Random) -> str:
    return rng.choice(
        (f"{rng.randint(8, 98)}元", f"{rng.randint(100, 999)}元", f"{rng.randint(10, 89)}99元")
    )


ZH: dict[str, Draw] = {
    "person": _zh_person,
    "place": lambda r: _zh_head(r) + _zh("place_tail", r),
    "title": _zh_title,
    "company": lambda r: _zh_brand(r) + _zh("industry", r) + r.choice(("", "公司", "集团", "公司")),
    "product": lambda r: _zh("product_adjective", r) + _zh("product_noun", r),
    "product name": _zh_product_name,
    "press": lambda r: _zh_brand(r) + r.choice(("出版社", "书局", "文艺出版社")),
    "school": lambda r: _zh_head(r) + _zh("school_tail", r),
    "province": lambda r: _zh("place_head", r) + r.choice("州岭海川原湘") + "省",
    "river": lambda r: _zh_head(r) + r.choice(("河", "江", "溪")),
    "restaurant": lambda r: (
        (_zh("title_word", r) if r.random() < 0.5 else _zh_head(r)) + _zh("restaurant_tail", r)
    ),
    "dish": lambda r: _zh_head(r) + _zh("dish_method", r) + _zh("dish_tail", r),
    "team": lambda r: _zh_head(r) + _zh("team_tail", r),
    "stadium": lambda r: _zh_head(r) + r.choice(("体育场", "球场", "体育中心", "公园")),
    "building": lambda r: _zh_brand(r) + _zh("building_tail", r),
    "event": lambda r: _zh_head(r) + _zh("event_tail", r),
    "year": lambda r: f"{r.randint(1890, 2025)}年",
    "minutes": lambda r: f"{r.randint(72, 188)}分钟",
    "pages": lambda r: f"{r.randint(96, 880)}页",
    "people": _zh_people,
    "price": _zh_price,
    "small price": lambda r: f"{r.randint(6, 188)}元",
    "weight": lambda r: r.choice((f"{r.randint(50, 980)}克", f"{r.uniform(1, 20):.1f}公斤")),
    "length": lambda r: f"{r.randint(2, 6)}分{r.randint(1, 59)}秒",
    "metres": lambda r: f"{r.randint(18, 520)}米",
    "floors": lambda r: f"{r.randint(3, 110)}层",
    "date": lambda r: f"{r.randint(1, 12)}月{r.randint(1, 28)}日",
}


def _en_surname(rng: random.Random) -> str:
    return _en("syllable_a", rng) + _en("syllable_b", rng)


def _en_brand(rng: random.Random) -> str:
    return _en("brand", rng) if rng.random() < 0.5 else _en_surname(rng)


def _en_place(rng: random.Random) -> str:
    core = _en_surname(rng)
    shapes = (f"{_en('place_head', rng)} {core}", core, f"{core} {_en('place_tail', rng)}")
    return rng.choice(shapes)


def _en_title(rng: random.Random) -> str:
    adjective = _en("title_adjective", rng)
    noun, other = rng.sample(pool("en", "title_noun"), 2)
    shapes = (f"The {adjective} {noun}", f"{adjective} {noun}", f"{noun} and {other}")
    return rng.choice(
        (*shapes, f"A {noun} for {_en('first_name', rng)}", f"The {noun} of {_en_surname(rng)}")
    )


def _en_people(rng: random.Random) -> str:
    small, thousands = str(rng.randint(20, 990)), f"{rng.randint(1, 98)},{rng.randint(0, 999):03d}"
    return rng.choice((small, thousands, thousands))


EN: dict[str, Draw] = {
    "person": lambda r: f"{_en('first_name', r)} {_en_surname(r)}",
    "place": _en_place,
    "title": _en_title,
    "company": lambda r: f"{_en_brand(r)} {_en('industry', r)}",
    "product": lambda r: f"{_en('product_adjective', r)} {_en('product_noun', r)}",
    "product name": lambda r: f"{_en('brand', r)} {r.choice('ABCDEGKMPRSTVXZ')}{r.randint(1, 99)}",
    "press": lambda r: f"{_en_surname(r)} {r.choice(('Press', 'Books', 'House'))}",
    "school": lambda r: f"{_en_surname(r)} {_en('school_tail', r)}",
    "province": lambda r: _en("syllable_a", r) + _en("province_tail", r),
    "river": lambda r: f"River {_en_surname(r)}",
    "restaurant": lambda r: f"The {_en('title_adjective', r)} {_en('restaurant_noun', r)}",
    "dish": lambda r: f"{_en_surname(r)} {_en('dish_adjective', r)} {_en('dish_noun', r)}",
    "team": lambda r: f"{_en_surname(r)} {_en('team_tail', r)}",
    "stadium": lambda r: f"{_en_surname(r)} {r.choice(('Park', 'Stadium', 'Field', 'Arena'))}",
    "building": lambda r: f"{_en_surname(r)} {_en('building_tail', r)}",
    "event": lambda r: f"{_en_surname(r)} {_en('event_tail', r)}",
    "year": lambda r: str(r.randint(1890, 2025)),
    "minutes": lambda r: f"{r.randint(72, 188)} minutes",
    "pages": lambda r: f"{r.randint(96, 880)} pages",
    "people": _en_people,
    "price": lambda r: f"${r.randint(9, 999)}",
    "small price": lambda r: f"${r.randint(4, 60)}",
    "weight": lambda r: f"{r.randint(50, 980)} g",
    "length": lambda r: f"{r.randint(2, 6)}:{r.randint(1, 59):02d}",
    "metres": lambda r: f"{r.randint(18, 520)} m",
    "floors": lambda r: f"{r.randint(3, 110)} floors",
    "date": lambda r: f"{_en('month', r)} {r.randint(1, 28)}",
}

# Names proper obey the split; whatever else has no generator above is a plain pool of values.
NAMED = frozenset(
    ("person", "place", "title", "company", "product name", "press", "school", "province")
    + ("river", "restaurant", "dish", "team", "stadium", "building", "event")
)


def draw(kind: str, language: str, split: str, rng: random.Random) -> str:
    """One invented name or value of `kind` ("person", "year" …) in "zh" or "en" for `split`."""
    owner = "probe" if split == NEW_NAMES else split
    generators = ZH if language == "zh" else EN
    if kind == "number":
        return str(rng.randint(2, 99))
    if kind not in generators:
        return rng.choice(pool(language, kind))
    while True:
        name = generators[kind](rng)
        if kind not in NAMED or split_of(name) == owner:
            return name
