"""Claims about a scene and their truth values, independent of wording.

`truth(scene)` is True, False, or None where the claim is borderline (see world.py) or ambiguous in plain
English; such pairs are never used.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.demo_training.world import Kind, Scene, Thing, at_place, related, select


def every(verdicts: list[bool | None]) -> bool | None:
    """Return True if non-empty and all are true, False if empty or one is false, else None."""
    if False in verdicts or not verdicts:
        return False
    return None if None in verdicts else True


def the_one(verdicts: list[bool | None], negated: bool) -> bool | None:
    """Return the common truth of all referents of "the ..."; None when they differ. Without a referent, "is"
    is false and "is not" is None."""
    if not verdicts:
        return None if negated else False
    first = verdicts[0]
    return None if first is None or set(verdicts) != {first} else first != negated


@dataclass(frozen=True)
class Exists:
    """At least one such thing exists (none, when `negated`)."""

    kind: Kind
    negated: bool = False

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        return None if found is None else bool(found) != self.negated


@dataclass(frozen=True)
class Count:
    """There are exactly `count` such things."""

    kind: Kind
    number: int

    def truth(self, scene: Scene) -> bool | None:
        found = select(scene, self.kind)
        return None if found is None else len(found) == self.number


@dataclass(frozen=True)
class Is:
    """ "The circle is blue". None with several circles that differ, unless `each` quantifies over all ("every
    circle is blue"); false without a circle. The negation requires a circle."""

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
    """ "No circle is blue": also true without a circle."""

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
    """ "The circle is on the left" (all circles, at least one), or with `some` "there is a circle on the
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
    """ "The circle is left of the square": requires at most one of each. With `some`: "there is a circle left
    of a square", true for any such two."""

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
    """Return the kind of the thing, from the chosen qualities."""
    return Kind(
        thing.shape if shape else None, thing.colour if colour else None, thing.size if size else None
    )
