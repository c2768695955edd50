"""The folded network in its final number format, kept in a file that is mapped instead of read.

Reading, folding and casting a large checkpoint takes far longer than the first verdict, so the result is
kept. A record beside it says what it was made from: the weights' size, time and checksum, the configuration's
checksum, the version of this code. At a start sizes and times decide, for hashing gigabytes would take as
long as converting them; :meth:`Conversion.verify` hashes everything, where files are doubted. A file that
was made from anything else is not used, and one that is damaged is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ofa.checkpoint import find_weights
from ofa.config import NetworkConfig
from ofa.fold import fold
from ofa.network import OFA, blank
from ofa.vision import CancelPoint

#: Raised whenever folding, casting or a layout changes what the file holds.
VERSION = 2
#: Smaller checkpoints, in bytes, are converted at every start: that is as fast.
WORTHWHILE = 64 << 20
_BLOCK = 4 << 20  # bytes hashed between two cancel points
_ALIGNMENT = 64  # bytes, that of torch's own memory
_GAP = "_gap."  # begins the names of what fills the file up to the next multiple of that
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a file is recognised without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


class Checksums:
    """SHA-256 of sources, each read once for all the formats that it was converted to.

    For one pass over them, not to be kept: what a disk holds may change without a new time.

    Args:
        known: asked first; the SHA-256 of a file that somebody has read in full just before, as long as its
            size and time have not changed since, else None.
    """

    def __init__(self, known: Callable[[Path], str | None] = lambda path: None) -> None:
        self._known = known
        self._read: dict[Path, tuple[Stamp, str]] = {}

    def of(self, path: Path, cancel_point: CancelPoint | None) -> str:
        """Raises OSError, and what the cancel point raises."""
        if (known := self._known(path)) is not None:
            return known
        stamp = Stamp.of(path)  # taken first: a write during the hashing leaves a newer one behind
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = stamp, _sha256(path, cancel_point)
        return self._read[path][1]


class Conversion:
    """The converted weights of one model folder in one number format.

    Args:
        folder: a model folder. Its weights are looked at now, so make this before they are read.
        cache: where converted files are kept; made when something is written.

    Raises:
        CheckpointError: the folder has no weights.
        OSError: they cannot be looked at.
    """

    def __init__(self, folder: Path, cache: Path, dtype: torch.dtype) -> None:
        self.source = find_weights(folder)
        self._stamp = Stamp.of(self.source)
        self._configuration = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        self._dtype = dtype
        place = hashlib.sha256(os.fsencode(self.source.resolve())).hexdigest()[:16]
        self.path = cache / f"{place}-{str(dtype).removeprefix('torch.')}.safetensors"
        self._record = self.path.with_suffix(".json")

    @property
    def worthwhile(self) -> bool:
        """Whether reading the source takes long enough to keep a converted file."""
        return self._stamp.size >= WORTHWHILE

    def read(self, config: NetworkConfig) -> OFA | None:
        """The network on the converted file, mapped; None when there is none to be believed."""
        record = self._read_record()
        if record is None:
            return None
        try:
            if asdict(Stamp.of(self.path)) != record["file"]:
                return None
            with safe_open(self.path, framework="pt") as file:
                names = [name for name in file.keys() if not name.startswith(_GAP)]  # noqa: SIM118
                state = {name: _loaded(file.get_tensor(name)) for name in names}
        except (OSError, SafetensorError, KeyError):
            return None
        network = _skeleton(config, self._dtype)
        for name in _copies(config):
            if "encoder.embed_tokens.weight" in state:
                state[name] = state["encoder.embed_tokens.weight"]
        wanted = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
        if wanted != {name: (value.shape, value.dtype) for name, value in state.items()}:
            return None
        network.load_state_dict(state, strict=True, assign=True)
        network.tie_embeddings()
        return network

    def write(
        self, network: OFA, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None
    ) -> bool:
        """Keep a network that was read from the source, folded and cast. False when the source has changed
        since. Replaces the old file at once or not at all.

        Raises:
            OSError: no room, no right.
        """
        source_sha256 = (checksums or Checksums()).of(self.source, cancel_point)
        if Stamp.of(self.source) != self._stamp:
            return False
        copies = _copies(network.config)
        state = {name: _stored(one) for name, one in network.state_dict().items() if name not in copies}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part, record_part = (
            path.with_name(f"{path.name}.{os.getpid()}.part") for path in (self.path, self._record)
        )
        try:
            _write_aligned(state, part)
            sums = {"source_sha256": source_sha256, "file_sha256": _sha256(part, cancel_point)}
            record = {**self._made_from(), **sums, "file": asdict(Stamp.of(part))}
            record_part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            self._record.unlink(missing_ok=True)  # between the two there must be no record of another file
            part.replace(self.path)
            record_part.replace(self._record)
        finally:
            part.unlink(missing_ok=True)
            record_part.unlink(missing_ok=True)
        return True

    def verify(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> bool:
        """Hash source and converted file in full; remove the latter when either is not what it was."""
        record = self._read_record()
        try:
            good = (
                record is not None
                and _sha256(self.path, cancel_point) == record.get("file_sha256")
                and (checksums or Checksums()).of(self.source, cancel_point) == record.get("source_sha256")
            )
        except OSError:
            good = False
        if not good:
            self.remove()
        return good

    def remove(self) -> None:
        """Forget the converted file. Raises OSError."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _made_from(self) -> dict[str, object]:
        return {"version": VERSION, "source": asdict(self._stamp), "configuration": self._configuration}

    def _read_record(self) -> dict[str, object] | None:
        """The record, if it is of a file made from this source by this code."""
        try:
            record = json.loads(self._record.read_text("utf-8"))
            made_from = {key: record[key] for key in self._made_from()}
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return record if made_from == self._made_from() else None


def _skeleton(config: NetworkConfig, dtype: torch.dtype) -> OFA:
    """A folded and cast network without weights (on the meta device)."""
    network = blank(config)
    fold(network)
    network.cast(dtype)
    return network


def _copies(config: NetworkConfig) -> tuple[str, ...]:
    """Names under which the shared embedding appears again; it is stored once."""
    output = ("decoder.output_projection.weight",) if config.share_decoder_input_output_embed else ()
    return ("decoder.embed_tokens.weight", *output)


def _stored(value: Tensor) -> Tensor:
    """Kernels are kept channels-last; the format knows row-major tensors alone, so their axes are turned."""
    value = value.cpu()
    return value.permute(0, 2, 3, 1).contiguous() if value.dim() == 4 else value.contiguous()


def _loaded(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2) if value.dim() == 4 else value


def _write_aligned(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file in which every tensor begins at a multiple of 64 bytes. Raises OSError.

    The library aligns to 8 bytes. For weights at such addresses the matrix libraries choose other kernels,
    whose results differ in the last bits from those of the weights that were converted.
    """
    header: dict[str, object] = {}
    contents: list[Tensor] = []
    end = 0
    for name, value in state.items():
        gap = torch.zeros(-value.nbytes % _ALIGNMENT, dtype=torch.uint8)
        for key, kind, one in ((name, _DTYPES[value.dtype], value), (_GAP + name, "U8", gap)):
            if one.nbytes:
                offsets = [end, end + one.nbytes]
                header[key] = {"dtype": kind, "shape": list(one.shape), "data_offsets": offsets}
                contents.append(one.view(torch.uint8))
                end += one.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for content in contents:
            file.write(content.numpy().data)


def _sha256(path: Path, cancel_point: CancelPoint | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if cancel_point is not None:
                cancel_point()
            digest.update(block)
    return digest.hexdigest()
