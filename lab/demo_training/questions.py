"""Open questions with a one-word answer, used only in training: they carry more information than yes or no,
and a new kind of statement is learnt faster with questions of its kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from lab.demo_training.claims import describe
from lab.demo_training.phrases import NUMBERS, a, noun, qualities
from lab.demo_training.wordings import AT, BETWEEN
from lab.demo_training.world import HALVES, RELATIONS, Kind, Scene, Thing, at_place, related, select

Asked = tuple[str, str, str]  # text, answer, wording


def _only(scene: Scene, kind: Kind) -> Thing | None:
    """Return the only thing of that kind."""
    found = select(scene, kind)
    return found[0] if found is not None and len(found) == 1 else None


def _shape(rng: random.Random, scene: Scene) -> Asked | None:
    kind = describe(rng.choice(scene.things), shape=False, colour=True)
    found = select(scene, kind) or []
    if len({thing.shape for thing in found}) != 1:
        return None
    return f"what shape is the {noun(kind, rng)}?", found[0].shape, "what shape"


def _colour(rng: random.Random, scene: Scene) -> Asked | None:
    kind = describe(rng.choice(scene.things))
    found = select(scene, kind) or []
    if len({thing.colour for thing in found}) != 1:
        return None
    return f"what colour is the {kind.shape}?", found[0].colour, "what colour"


def _size(rng: random.Random, scene: Scene) -> Asked | None:
    kind = describe(rng.choice(scene.things), colour=rng.random() < 0.3)
    sizes = {thing.size for thing in select(scene, kind) or []}
    size = sizes.pop() if len(sizes) == 1 else None
    return None if size is None else (f"is the {noun(kind, rng)} small or large?", size, "what size")


def _who(rng: random.Random, scene: Scene) -> Asked | None:
    """ "What colour is the circle on the left?", when circles elsewhere may have others."""
    place, by_shape = rng.choice(HALVES), rng.random() < 0.5
    several = [one for one in scene.things if _alike(scene, one, by_shape) > 1]
    kind = describe(rng.choice(several or scene.things), shape=by_shape, colour=not by_shape)
    found = select(scene, kind) or []
    verdicts = [at_place(thing, place) for thing in found]
    there = [thing for thing, verdict in zip(found, verdicts, strict=True) if verdict]
    asked = "colour" if by_shape else "shape"
    answers = {str(getattr(thing, asked)) for thing in there}
    if None in verdicts or len(answers) != 1:
        return None
    return f"what {asked} is the {noun(kind, rng)} {rng.choice(AT[place])}?", answers.pop(), f"who {place}"


def _alike(scene: Scene, thing: Thing, by_shape: bool) -> int:
    kind = describe(thing, shape=by_shape, colour=not by_shape)
    return len(select(scene, kind) or [])


def _half(rng: random.Random, scene: Scene) -> Asked | None:
    if len(scene.things) > 1 and rng.random() < 0.6:
        return _who(rng, scene)
    kind = describe(rng.choice(scene.things), colour=rng.random() < 0.3)
    thing, (first, second) = _only(scene, kind), rng.choice((HALVES[:2], HALVES[2:]))
    verdict = None if thing is None else at_place(thing, first)
    if verdict is None:
        return None
    return f"is the {noun(kind, rng)} {first} or {second}?", first if verdict else second, "where"


def _spot(rng: random.Random, scene: Scene) -> Asked | None:
    kind = describe(rng.choice(scene.things), colour=rng.random() < 0.3)
    thing = _only(scene, kind)
    spots = [spot for spot in ("centre", "corner") if thing is not None and at_place(thing, spot)]
    if not spots:
        return None
    return f"is the {noun(kind, rng)} in the centre or in a corner?", spots[0], "which spot"


def _number(rng: random.Random, scene: Scene) -> Asked | None:
    kind = Kind()
    if rng.random() > 0.35:
        kind = describe(rng.choice(scene.things), **qualities(rng, rng.choice((1, 1, 2))))
    found = select(scene, kind)
    if found is None:
        return None
    return f"how many {noun(kind, rng, plural=True)} are there?", NUMBERS[len(found)], "how many"


def _relation(rng: random.Random, scene: Scene) -> Asked | None:
    """ "Is the star above or below the square?", or "what shape is left of the square?" when one thing is."""
    if len(scene.things) < 2:
        return None
    thing, other = rng.sample(scene.things, 2)
    kind, second = (describe(one, **qualities(rng, rng.choice((1, 1, 2)))) for one in (thing, other))
    if _only(scene, kind) is None or _only(scene, second) is None:
        return None
    first, opposite = rng.choice((RELATIONS[:2], RELATIONS[2:]))
    if rng.random() < 0.7:
        verdict = related(thing, other, first)
        if verdict is None:
            return None
        words = f"{first.removesuffix(' of')} or {opposite}"
        answer = (first if verdict else opposite).removesuffix(" of")
        return f"is the {noun(kind, rng)} {words} the {noun(second, rng)}?", answer, f"{first} or"
    relation, asked = rng.choice((first, opposite)), rng.choice(("shape", "colour"))
    verdicts = {id(one): related(one, thing, relation) for one in scene.things if one is not thing}
    if None in verdicts.values() or list(verdicts.values()).count(True) != 1:
        return None
    hit = next(one for one in scene.things if verdicts.get(id(one)))
    words = rng.choice(BETWEEN[relation])
    return f"what {asked} is {words} the {noun(kind, rng)}?", getattr(hit, asked), f"what {words}"


def _exception(rng: random.Random, scene: Scene) -> Asked | None:
    """ "What colour is the circle that is not red?", when some circles are red and the others are alike."""
    by_shape = rng.random() < 0.65
    asked = "colour" if by_shape else "shape"
    thing = rng.choice(scene.things)
    kind = describe(thing, shape=by_shape, colour=not by_shape) if rng.random() < 0.7 else Kind()
    found = {str(getattr(one, asked)) for one in select(scene, kind) or []}
    usual = str(getattr(thing, asked))
    if len(found) != 2:
        return None
    answer = next(iter(found - {usual}))
    words = usual if by_shape else a(usual)
    return f"what {asked} is the {noun(kind, rng)} that is not {words}?", answer, f"what {asked} not"


#: Questions by the category of statements that they help.
QUESTIONS: dict[str, Callable[[random.Random, Scene], Asked | None]] = {
    "existence": _shape,
    "colour": _colour,
    "size": _size,
    "place": _half,
    "centre or corner": _spot,
    "count": _number,
    "relation": _relation,
    "every": _exception,
}


def ask(rng: random.Random, scene: Scene, categories: Sequence[str], tries: int = 6) -> Asked | None:
    """Return a question for one of the categories, or None when none with a clear answer was found."""
    topics = [name for name in QUESTIONS if name in categories]
    for _ in range(tries if scene.things and topics else 0):
        asked = QUESTIONS[rng.choice(topics)](rng, scene)
        if asked is not None:
            return asked
    return None
