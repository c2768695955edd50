"""HEIC pictures in reader processes: the same pixels as in process, and limits that hold for broken files."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

from lab.faults.hostile_pictures import OK, SLOW
from service.contract.errors import InputError
from service.intake import image
from service.intake.readers import Readers
from tests.fakes import until
from tests.heic import declaring, deep, halves, heic
from tests.intake.test_readers import prepared
from tests.reading import SMALL, Make, code_of, pids, read

FILES = {
    "plain": heic(halves()),
    "turned": heic(halves(), orientation=6),
    "cropped": heic(halves((71, 33))),
    "transparent": heic(halves().convert("RGBA")),
    "deep": deep("RGB"),
    "deep grey": deep("I"),
    "two": heic(halves(), halves((64, 64))),
}
#: What a reader may answer to a damaged file.
REFUSED = {
    "image_unreadable",
    "image_truncated",
    "image_unsupported",
    "image_too_large",
    "not_an_image",
    SLOW,
}
MUTANTS = 200
PEAK_KB = 400 << 10  # VmHWM of a reader; its limit for a small picture is 210 MiB beyond an idle one


@pytest.mark.parametrize("name", FILES)
def test_a_reader_gives_the_pixels_of_the_command_line(name: str, make_readers: Make) -> None:
    pixels = read(make_readers(count=1), FILES[name])
    alone = image.load(FILES[name], side=32, max_bytes=1 << 20, max_pixels=64_000_000)
    assert pixels.tobytes() == alone.image.tobytes()


def test_a_reader_imports_the_decoder_for_heic_alone(make_readers: Make) -> None:
    readers = make_readers(count=1)

    def libraries() -> str:
        (pid,) = pids(readers)
        return Path(f"/proc/{pid}/maps").read_text()

    read(readers, SMALL)
    assert "libheif" not in libraries()
    read(readers, FILES["plain"])
    assert "libheif" in libraries()


def test_without_the_package_the_error_says_so(make_readers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = make_readers(count=1, make=prepared("import sys; sys.modules['pillow_heif'] = None"))
    assert code_of(readers, FILES["plain"]) == "image_unsupported"
    assert code_of(readers, SMALL) == OK
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError) as caught:
        image.load(FILES["plain"], side=32, max_bytes=1 << 20, max_pixels=64_000_000)
    assert (caught.value.code, caught.value.facts) == ("image_unsupported", {"missing_heic": 1})


def test_pixels_far_larger_than_declared_stay_within_the_limits(make_readers: Make) -> None:
    """The boxes promise 64 × 64 pixels, the coded picture has 16 million."""
    readers = make_readers(count=1)
    data = declaring(
        heic(halves((4000, 4000)), quality=1, chroma=420, enc_params={"preset": "ultrafast"}), 64, 64
    )
    assert code_of(readers, data) in ("image_unreadable", SLOW)
    assert peak_kb(readers) < PEAK_KB
    assert code_of(readers, FILES["plain"]) == OK


def test_damaged_files_are_refused_and_lose_no_reader(make_readers: Make) -> None:
    readers, chance = make_readers(count=2), random.Random(15)
    ended: dict[str, int] = {}
    for _ in range(MUTANTS):
        data = mutated(FILES[chance.choice(list(FILES))], chance)
        code = code_of(readers, data)
        ended[code] = ended.get(code, 0) + 1
    assert ended.keys() <= REFUSED | {OK}
    assert len(ended) > 2, "the mutations reach several checks"
    assert code_of(readers, FILES["plain"]) == OK
    until(lambda: readers.state().idle == 2)
    assert peak_kb(readers) < PEAK_KB


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, most often in the boxes, and sometimes the length."""
    changed = bytearray(data)
    boxes = data.index(b"mdat")
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(12, boxes if chance.random() < 0.7 else len(changed))
        changed[at] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
    if chance.random() < 0.2:
        del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def peak_kb(readers: Readers) -> int:
    """Return the largest peak of resident memory of a reader, in KiB."""
    found = [
        int(match[1])
        for pid in pids(readers)
        if (match := re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()))
    ]
    return max(found)
