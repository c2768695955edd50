"""Write `card.json` and the example pictures of the page: `python -m lab.demo_training.card`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lab.demo_training import DEMO
from lab.demo_training.render import render
from lab.demo_training.world import Scene, Thing

#: Categories with at least 95 % accuracy with every renderer; others are left off the card and the page.
KNOWN = (
    *("existence", "colour", "size", "place", "centre or corner", "negation", "none", "conjunction"),
    "maybe",
)
_KNOWS = {
    "en": "This small demo model knows simple pictures of coloured shapes and nothing else: up to five "
    "circles, squares, triangles, stars and crosses in eight colours. About anything else its answer means "
    "nothing.",
    "zh": "这个小型演示模型只认识由彩色图形组成的简单图片："
    "最多五个圆形、正方形、三角形、星形和十字形，共八种颜色。"
    "对其他任何内容，它的回答都没有意义。",
}


@dataclass(frozen=True)
class Example:
    """A picture of this world, a sentence about it, and why the label is right."""

    category: str
    name: str
    scene: Scene
    hypothesis: str
    label: str
    en: str
    zh: str


def _scene(seed: int, backdrop: float, *things: Thing, width: int = 240, height: int = 200) -> Scene:
    return Scene(width, height, things, backdrop, seed)


_RED_CIRCLE = _scene(11, 1.0, Thing("circle", "red", 0.45, 0.5, 0.5))
_TWO = _scene(12, 0.95, Thing("circle", "blue", 0.36, 0.28, 0.5), Thing("star", "yellow", 0.36, 0.72, 0.5))
_MANY = _scene(
    14,
    0.85,
    Thing("square", "green", 0.30, 0.22, 0.28),
    Thing("square", "green", 0.30, 0.55, 0.70),
    Thing("square", "red", 0.16, 0.85, 0.25),
)
_ROW = _scene(
    15, 1.0, Thing("triangle", "purple", 0.32, 0.25, 0.72), Thing("cross", "orange", 0.32, 0.75, 0.28)
)
_CORNER = _scene(17, 0.9, Thing("star", "red", 0.26, 0.16, 0.18), Thing("square", "blue", 0.30, 0.5, 0.5))
_STARS = _scene(
    16,
    0.08,
    Thing("star", "yellow", 0.30, 0.25, 0.30),
    Thing("star", "yellow", 0.30, 0.72, 0.30),
    Thing("star", "yellow", 0.17, 0.50, 0.75),
)

EXAMPLES = (
    Example("existence", "existence", _RED_CIRCLE, "there is a red circle", "Yes",
            "A red circle is there.", "图中有一个红色圆形。"),
    Example("colour", "colour", _TWO, "the circle is yellow", "No",
            "The circle is blue; it is the star that is yellow.", "圆形是蓝色的，黄色的是星形。"),
    Example("count", "count", _MANY, "there are two squares", "No",
            "Counts are exact: there are three squares.", "数量必须完全一致：图中有三个正方形。"),
    Example("size", "size", _MANY, "the red square is small", "Yes",
            "The red square is much smaller than the green ones.", "红色正方形比绿色的小得多。"),
    Example("place", "place", _ROW, "the cross is on the right", "Yes",
            "Right means the right half of the picture.", "“右边”指图片的右半部分。"),
    Example("centre or corner", "spot", _CORNER, "the star is in the centre", "No",
            "The star is in a corner; it is the square that is in the centre.",
            "星形在角落，中央的是正方形。"),
    Example("relation", "relation", _ROW, "the triangle is above the cross", "No",
            "The triangle is lower than the cross.", "三角形在十字形的下方。"),
    Example("negation", "negation", _TWO, "there is no square", "Yes",
            "There is a circle and a star, but no square.", "图中有圆形和星形，没有正方形。"),
    Example("every", "every", _STARS, "all stars are yellow", "Yes",
            "There are three stars, and each of them is yellow.", "三颗星全是黄色的。"),
    Example("none", "none", _MANY, "none of the squares is blue", "Yes",
            "There are three squares; two are green and one is red.", "有三个正方形：两个绿色，一个红色。"),
    Example("conjunction", "conjunction", _TWO, "there is a blue circle and a red star", "No",
            "The circle is blue, but the star is not red.", "圆形是蓝色的，但星形不是红色的。"),
    Example("maybe", "maybe", _RED_CIRCLE, "the circle is heavy", "Maybe",
            "A picture cannot tell how much a circle weighs.", "图片无法告诉我们圆形有多重。"),
)  # fmt: skip


def main() -> None:
    folder = DEMO / "examples"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    examples = []
    for example in EXAMPLES:
        if example.category not in KNOWN:
            continue
        path = folder / f"{example.name}.png"
        render(example.scene).save(path, optimize=True)
        examples.append({
            "image": f"examples/{path.name}", "hypothesis": example.hypothesis, "premise": None,
            "label": example.label, "category": example.category,
            "explain": {"en": example.en, "zh": example.zh},
        })  # fmt: skip
    card = {"name": "demo", "knows": _KNOWS, "categories": list(KNOWN), "examples": examples}
    (DEMO / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
