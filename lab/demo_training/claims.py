"""What can be said about a scene, and when it is true: claims without words.

`truth(scene)` is True, False, or None where the claim hangs on something too close to call (see world.py) or
on what plain English leaves open; such pairs are never asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.demo_training.world import Kind, Scene, Thing, at_place, related, select


def every(verdicts: list[bool | None]) -> bool | None:
    """True when there is one and all are true, False when one is false or there is none, else None."""
    if False in verdicts or not verdicts:
        return False
    return None if None in verdicts else True


def the_one(verdicts: list[bool | None], negated: bool) -> bool | None:
    """The common verdict of all that "the ..." may mean; None when they differ. Of nothing, "is" is false and
    "is not" is left open."""
    if not verdicts:
        return None if negated else False
    first = verdicts[0]
    return None if first is None or set(verdicts) != {first} else first != negated


@dataclass(frozen=True)
class Exists:
    """At least one such thing is there (none, when `negated`)."""

    kind: Kind
    negated: bool = False

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        return None if found is None else bool(found) != self.negated


@dataclass(frozen=True)
class Count:
    """Exactly so many."""

    kind: Kind
    number: int

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        return None if found is None else len(found) == self.number


@dataclass(frozen=True)
class Is:
    """ "The circle is blue". With several circles that differ it is left open, unless `each` asks for all of
    them ("every circle is blue"); without a circle it is false. Negated, it needs a circle."""

    kind: Kind
    quality: Kind
    negated: bool = False
    each: bool = False

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        if found is None:
            return None
        verdicts = [self.quality.matches(thing) for thing in found]
        return every(verdicts) if self.each else the_one(verdicts, self.negated)


@dataclass(frozen=True)
class NoneIs:
    """ "No circle is blue": true as well when there is no circle."""

    kind: Kind
    quality: Kind

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        if found is None:
            return None
        verdicts = {self.quality.matches(thing) for thing in found}
        if True in verdicts:
            return False
        return None if None in verdicts else True


@dataclass(frozen=True)
class At:
    """ "The circle is on the left" (every one, and there is one), or with `some` "there is a circle on the
    left"."""

    kind: Kind
    place: str
    some: bool = False
    negated: bool = False

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        if found is None:
            return None
        verdicts = [at_place(thing, self.place) for thing in found]
        if self.some:
            return True if True in verdicts else None if None in verdicts else False
        return the_one(verdicts, self.negated)


@dataclass(frozen=True)
class Related:
    """ "The circle is left of the square": needs at most one of each. With `some`: "there is a circle left
    of a square", true when any two are so."""

    first: Kind
    second: Kind
    relation: str
    some: bool = False

    def truth(self, scene: Scene) -> bool | None:
        ones, others = select(scene, self.first), select(scene, self.second)
        if ones is None or others is None:
            return None
        if not self.some:
            if len(ones) > 1 or len(others) > 1:
                return None
            if not ones or not others:
                return False
            return None if ones[0] is others[0] else related(ones[0], others[0], self.relation)
        verdicts = [related(a, b, self.relation) for a in ones for b in others if a is not b]
        return True if True in verdicts else None if None in verdicts else False


@dataclass(frozen=True)
class Both:
    """Two existence claims joined: "a circle and a square", "a circle but no square"."""

    first: Exists
    second: Exists

    def truth(self, scene: Scene) -> bool | None:
        verdicts = (self.first.truth(scene), self.second.truth(scene))
        return None if None in verdicts else all(verdicts)


Claim = Exists | Count | Is | NoneIs | At | Related | Both


def describe(thing: Thing, *, shape: bool = True, colour: bool = False, size: bool = False) -> Kind:
    """A kind that the thing belongs to, built from the chosen qualities."""
    return Kind(
        thing.shape if shape else None, thing.colour if colour else None, thing.size if size else None
    )
