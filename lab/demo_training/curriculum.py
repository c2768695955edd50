"""What the transformer is taught, and in which order.

Everything at once does not take off, and neither does a new kind of statement among many others; a short
stage of its own, with open questions of its kind beside it, does. A stage ends when each of its categories is
good enough on held-out pictures, or when its steps are used up.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = 0.02  # the least share of a category


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        categories: what is asked, the weakest most.
        things: how many things the pictures show.
        questions: the share of open questions, all about these categories.
        gate: the held-out accuracy that ends the stage once every category has it.
        steps: the most steps it takes.
        most: the most qualities a statement of existence names.
        rehearsed: what was learnt before and must not be forgotten.
        rehearsal: the share of statements about that.
    """

    name: str
    categories: tuple[str, ...]
    things: tuple[int, ...]
    questions: float
    gate: float
    steps: int
    most: int = 3
    rehearsed: tuple[str, ...] = ()
    rehearsal: float = 0.0

    def shares(self, accuracy: dict[str, float]) -> dict[str, float]:
        """The share of each category in the next sentences, "question" among them."""
        weights = {name: share_for(name, accuracy.get(name, 0.0)) for name in self.categories}
        scale = (1 - self.questions - self.rehearsal) / sum(weights.values())
        shares = {name: weight * scale for name, weight in weights.items()}
        for name in self.rehearsed:
            shares[name] = self.rehearsal / len(self.rehearsed)
        return {**shares, "question": self.questions} if self.questions else shares


def share_for(category: str, accuracy: float) -> float:
    """The weight of a category of this held-out accuracy: the weakest most."""
    return FLOOR if category == "maybe" else FLOOR + 1 - accuracy


_FIRST = ("existence", "colour", "maybe")
_SECOND = (*_FIRST, "size", "negation", "conjunction")
_THIRD = (*_SECOND, "place", "all or none")
_WEAKEST = ("place", "all or none", "centre or corner", "relation")
# What did not get far enough in the time there was: a few are kept so that the model stays unsure about them.
_UNKNOWN = ("count", "relation")
_KNOWN = (*_THIRD, "centre or corner")
_ANY = (0, 1, 2, 3, 4, 5)
STAGES = (
    Stage("trivial", ("existence",), (1, 2), 0.4, 0.95, 600, most=1),
    Stage("first version", _FIRST, (0, 1, 2, 3), 0.2, 0.975, 1200),
    Stage("qualities", _SECOND, _ANY, 0.2, 0.95, 1500),
    Stage("halves", ("existence", "place"), (1, 2), 0.4, 0.92, 600),
    Stage("places", _THIRD, _ANY, 0.15, 0.93, 300),
    Stage("spots", ("centre or corner",), (1, 2), 0.3, 0.95, 300, rehearsed=_THIRD, rehearsal=0.25),
    Stage("whose place", ("place",), (2, 3, 4), 0.45, 0.95, 400, rehearsed=_THIRD, rehearsal=0.15),
    Stage("first counts", ("count",), (0, 1, 2, 3), 0.4, 0.93, 400, rehearsed=_THIRD, rehearsal=0.2),
    Stage("relations", ("relation",), (2, 3), 0.4, 0.93, 400, rehearsed=_THIRD, rehearsal=0.2),
    Stage(
        "numbers",
        ("count", "relation", "centre or corner"),
        *(_ANY, 0.25, 0.92, 430),
        rehearsed=_THIRD,
        rehearsal=0.25,
    ),
    Stage("weakest", _WEAKEST, _ANY, 0.2, 0.96, 350, rehearsed=(*_SECOND, "count"), rehearsal=0.2),
    Stage("finish", _KNOWN, _ANY, 0.05, 2.0, 1_000_000, rehearsed=_UNKNOWN, rehearsal=0.03),
)
