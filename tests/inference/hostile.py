"""Ways to make a model folder that nobody should trust: each changes a copy of the demo model."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab.instances.instance import ROOT

DEMO = ROOT / "models" / "demo"
WEIGHTS = "pytorch_model.bin"
SAFE = "model.safetensors"
FILES = ("config.json", "configuration.json", "vocab.json", "merges.txt", "ans2label.json", "card.json")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1890\n"

Spoil = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Case:
    """``named``: the words that the refusal must contain, for a folder that is refused; empty: it loads."""

    spoil: Spoil
    named: tuple[str, ...] = ()


def copy(folder: Path) -> Path:
    """A copy of the demo model; its weights, the one large file, are a link."""
    folder.mkdir()
    for name in FILES:
        shutil.copy(DEMO / name, folder)
    shutil.copytree(DEMO / "examples", folder / "examples")
    (folder / WEIGHTS).symlink_to(DEMO / WEIGHTS)
    return folder


def write(name: str, content: bytes | str) -> Spoil:
    """Another content of one file."""
    data = content.encode() if isinstance(content, str) else content

    def spoil(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    return spoil


def edit(name: str, *path: str | int, value: object) -> Spoil:
    """Another value of one field."""

    def spoil(folder: Path) -> None:
        content: Any = json.loads((folder / name).read_text("utf-8"))
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / name).write_text(json.dumps(content), "utf-8")

    return spoil


def config(field: str, value: object) -> Case:
    """config.json with another value of one field, which is refused by its name."""

    return Case(edit("config.json", field, value=value), ("config.json", field))


def vocabulary(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        words = json.loads((folder / "vocab.json").read_text("utf-8"))
        change(words)
        (folder / "vocab.json").write_text(json.dumps(words), "utf-8")

    return spoil


def state(change: Callable[[dict[Any, Any]], object]) -> Spoil:
    """Other weights; what ``change`` returns, if anything, is stored in their place."""

    def spoil(folder: Path) -> None:
        weights = torch.load(DEMO / WEIGHTS, weights_only=True)
        changed = change(weights)
        (folder / WEIGHTS).unlink()
        torch.save(weights if changed is None else changed, folder / WEIGHTS)

    return spoil


def appended(change: Callable[[Path], object]) -> Spoil:
    """A copy of the weights file, changed as a file."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        shutil.copy(DEMO / WEIGHTS, folder / WEIGHTS)
        change(folder / WEIGHTS)

    return spoil


def replaced(name: str, make: Callable[[Path], object]) -> Spoil:
    """Something else than a file in a file's place."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def safetensors(header: bytes, length: int | None = None) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        data = struct.pack("<Q", len(header) if length is None else length) + header
        (folder / SAFE).write_bytes(data)

    return spoil


def many_names(folder: Path) -> None:
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    safetensors(b"{" + b",".join(entry % number for number in range(1_400_000)) + b"}")(folder)


class Intruder:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch intruded",))


def zipped_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Intruder()}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def long_pickle(folder: Path) -> None:
    """Ten million lists where the names of the tensors are looked for."""
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02](" + b"]" * 10_000_000 + b"e.")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def long_old_pickle(folder: Path) -> None:
    """The same in the format before torch 1.6: pickles, one after the other."""
    (folder / WEIGHTS).unlink()
    with (folder / WEIGHTS).open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(value, file, protocol=2)
        file.write(b"\x80\x02](" + b"]" * 10_000_000 + b"e.")


def bomb(weights: Path) -> None:
    with zipfile.ZipFile(weights, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/bomb", bytes(1 << 26))


def bare(shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of any size that takes four bytes in a file."""
    return torch.zeros(1).expand(shape)


def endless_copies(weights: dict[str, Any]) -> None:
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        weights[name] = bare((10**6, 10**6))


EMBEDDING = "encoder.embed_tokens.weight"


def large_and_bare(folder: Path) -> None:
    """As many parameters as the limits allow, in a file of a few kilobytes."""
    from ofa.config import NetworkConfig
    from ofa.network import blank

    content = json.loads((folder / "config.json").read_text("utf-8"))
    content |= {"d_model": 8192, "encoder_ffn_dim": 32768, "decoder_ffn_dim": 32768}
    (folder / "config.json").write_text(json.dumps(content))
    network = blank(NetworkConfig.from_mapping(content))
    (folder / WEIGHTS).unlink()
    one = torch.zeros(1, dtype=torch.float16)
    torch.save(
        {
            key: torch.zeros(value.shape, dtype=value.dtype)
            if value.numel() < 4096
            else one.expand(value.shape)
            for key, value in network.state_dict().items()
        },
        folder / WEIGHTS,
    )


DEEP = b"[" * 200_000
DIGITS = b"9" * 5_000
MARKUP = "</script><script>alert(1)</script>"

CASES: Mapping[str, Case] = {
    "pickle-plain": Case(write(WEIGHTS, pickle.dumps({"a": Intruder()})), (WEIGHTS,)),
    "pickle-in-zip": Case(zipped_pickle, (WEIGHTS,)),
    "pickle-long": Case(long_pickle, (WEIGHTS,)),
    "pickle-long-old-format": Case(long_old_pickle, (WEIGHTS,)),
    "safetensors-header-1e15": Case(safetensors(b"{}", 10**15), (SAFE,)),
    "safetensors-many-names": Case(many_names, (SAFE, "bytes")),
    "safetensors-deep": Case(safetensors(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), (SAFE,)),
    "configuration-deep": Case(write("configuration.json", DEEP), ("configuration.json",)),
    "config-deep": Case(write("config.json", b'{"a":' * 200_000), ("config.json",)),
    "config-deep-and-whole": Case(
        write("config.json", b'{"d_model":' + b"[" * 900 + b"]" * 900 + b"}"), ("config.json",)
    ),
    "vocab-deep": Case(write("vocab.json", DEEP), ("vocab.json",)),
    "answers-deep": Case(write("ans2label.json", DEEP), ("ans2label.json",)),
    "card-deep": Case(write("card.json", DEEP)),
    "card-list": Case(write("card.json", "[1]")),
    "card-examples-of-other-types": Case(edit("card.json", "examples", value=["x", 5])),
    "card-null-byte": Case(edit("card.json", "examples", 0, "image", value="a\0b")),
    "card-long-name": Case(edit("card.json", "examples", 0, "image", value="a" * 5_000)),
    "card-surrogate": Case(edit("card.json", "examples", 0, "image", value="\ud800")),
    "card-symlink": Case(
        lambda folder: (
            (folder / "examples/x.png").symlink_to("/etc/passwd"),
            edit("card.json", "examples", 0, "image", value="examples/x.png")(folder),
        )
    ),
    "card-symlink-loop": Case(
        lambda folder: (
            (folder / "examples/x.png").symlink_to("x.png"),
            edit("card.json", "examples", 0, "image", value="examples/x.png")(folder),
        )
    ),
    "card-html": Case(edit("card.json", "examples", 0, "hypothesis", value=MARKUP)),
    "card-digits": Case(write("card.json", b'{"name":' + DIGITS + b"}")),
    "layers-1e6": config("encoder_layers", 10**6),
    "layers-1e3": config("decoder_layers", 10**3),
    "d-model-1e9": config("d_model", 10**9),
    "d-model-1e18": config("d_model", 10**18),
    "ffn-1e12": config("encoder_ffn_dim", 10**12),
    "positions-1e9": config("max_position_embeddings", 10**9),
    "image-buckets-1e5": config("image_bucket_size", 100_000),
    "token-buckets-1e9": config("token_bucket_size", 10**9),
    "token-buckets-2046": config("token_bucket_size", 2046),
    "vocab-size-1e12": config("vocab_size", 10**12),
    "digits-5000": Case(write("config.json", b'{"d_model":' + DIGITS + b"}"), ("config.json", "d_model")),
    "scale-nan": config("attn_scale_factor", float("nan")),
    "scale-1e308": config("attn_scale_factor", 1e308),
    "pad-negative": config("pad_token_id", -5),
    "config-with-bom": Case(
        write("config.json", b"\xef\xbb\xbf" + (DEMO / "config.json").read_bytes()), ("config.json",)
    ),
    "config-wider": Case(edit("config.json", "d_model", value=256), ("config.json", "embed_tokens")),
    "patch-1e6": Case(
        edit("configuration.json", "model", "patch_image_size", value=10**6), ("patch_image_size",)
    ),
    "vocab-double-ids": Case(
        vocabulary(lambda words: words.update({list(words)[10]: list(words.values())[11]})), ("vocab.json",)
    ),
    "vocab-fractional-ids": Case(
        vocabulary(lambda words: words.update({list(words)[10]: 1.0})), ("vocab.json",)
    ),
    "vocab-surrogate": Case(vocabulary(lambda words: words.update({"\ud800": len(words)})), ("vocab.json",)),
    "vocab-4e5-words": Case(
        lambda folder: write("vocab.json", json.dumps({f"t{n}": n for n in range(400_000)}))(folder),
        ("vocab.json", "bytes"),
    ),
    "merges-of-three": Case(write("merges.txt", "#v\na\nb c d\n"), ("merges.txt",)),
    "merges-unknown": Case(write("merges.txt", "#v\nzz yy\n"), ("merges.txt",)),
    "merges-none": Case(write("merges.txt", ""), ("max_src_length",)),  # by letters, a prompt is too long
    "merges-1e6": Case(write("merges.txt", "#v\n" + "a b\n" * 1_000_000), ("merges.txt",)),
    "merges-5e6": Case(
        lambda folder: write("merges.txt", "#v\n" + "a b\n" * 5_000_000)(folder), ("merges.txt", "bytes")
    ),
    "answers-list": Case(write("ans2label.json", '["yes", "no", "maybe"]'), ("ans2label.json",)),
    "answers-null-byte": Case(
        write("ans2label.json", json.dumps({"yes\0": 0, "no": 1, "maybe": 2})), ("answer2label",)
    ),
    "answers-long": Case(
        write("ans2label.json", json.dumps({"yes" + " " * 3_000_000: 0, "no": 1, "maybe": 2})),
        ("ans2label.json", "bytes"),
    ),
    "answers-wide": Case(
        write("ans2label.json", json.dumps({"yes" + " " * 100_000: 0, "no": 1, "maybe": 2})),
        ("answer2label",),
    ),
    "answers-name-null-byte": Case(
        edit("configuration.json", "model", "answer2label", value="a\0b"), ("answer2label",)
    ),
    "answers-name-long": Case(
        edit("configuration.json", "model", "answer2label", value="a" * 5_000), ("answer2label",)
    ),
    "answers-name-of-lines": Case(
        edit("configuration.json", "model", "answer2label", value="a\nFATAL | forged"), ("answer2label",)
    ),
    "answers-symlink": Case(
        replaced("ans2label.json", lambda path: path.symlink_to("/etc/passwd")), ("ans2label.json",)
    ),
    "prompt-10-MB": Case(
        edit("configuration.json", "model", "prompt", value="x" * 10_000_000 + "{}"),
        ("configuration.json", "bytes"),
    ),
    "prompt-100-kB": Case(
        edit("configuration.json", "model", "prompt", value="x" * 100_000 + "{}"),
        ("configuration.json", "prompt"),
    ),
    "prompt-attribute": Case(
        edit("configuration.json", "model", "prompt", value="{0.__class__.__mro__}"), ("prompt",)
    ),
    "config-fifo": Case(replaced("config.json", os.mkfifo), ("config.json",)),
    "config-dev-zero": Case(
        replaced("config.json", lambda path: path.symlink_to("/dev/zero")), ("config.json",)
    ),
    "config-loop": Case(
        replaced("config.json", lambda path: path.symlink_to("config.json")), ("config.json",)
    ),
    "weights-dev-zero": Case(replaced(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), (WEIGHTS,)),
    "weights-fifo": Case(replaced(WEIGHTS, os.mkfifo), (WEIGHTS,)),
    "weights-folder": Case(replaced(WEIGHTS, Path.mkdir), (WEIGHTS,)),
    "weights-zip-bomb": Case(appended(bomb), (WEIGHTS,)),
    "weights-sparse-1TB": Case(appended(lambda path: os.truncate(path, 1 << 40)), (WEIGHTS,)),
    "weights-followed-by-bytes": Case(
        appended(lambda path: path.write_bytes(path.read_bytes() + b"x" * 1_000))
    ),
    "weights-complex": Case(
        state(lambda weights: weights.update({EMBEDDING: weights[EMBEDDING].to(torch.complex64)})),
        (EMBEDDING,),
    ),
    "weights-sparse": Case(
        state(lambda weights: weights.update({EMBEDDING: weights[EMBEDDING].to_sparse()})), (EMBEDDING,)
    ),
    "weights-meta": Case(
        state(lambda weights: weights.update({EMBEDDING: weights[EMBEDDING].to("meta")})), (EMBEDDING,)
    ),
    "weights-nested": Case(state(lambda weights: {"state_dict": dict(weights)}), (WEIGHTS,)),
    "weights-int-keys": Case(state(lambda weights: weights.update({5: torch.zeros(1)})), (WEIGHTS,)),
    "weights-key-of-lines": Case(
        state(lambda weights: weights.update({"a\nFATAL | forged" + "x" * 5_000: torch.zeros(1)})),
        (r"a\nFATAL",),
    ),
    "weights-expanded-and-ignored": Case(state(lambda weights: weights.update({"temp": bare((10**12,))}))),
    "weights-expanded-buckets": Case(
        state(lambda weights: weights.update({"encoder.image_rp_bucket": bare((10**6, 10**6))}))
    ),
    "weights-expanded-copies": Case(state(endless_copies), ("embed_tokens",)),
    "weights-smaller-than-their-network": Case(large_and_bare, ("config.json", WEIGHTS)),
    **{
        f"git-lfs-{name}": Case(write(name, POINTER), (name, "git lfs pull"))
        for name in ("config.json", "configuration.json", "vocab.json", "merges.txt", WEIGHTS, SAFE)
    },
}
