"""The folded network in its final number format, kept in a file that is mapped instead of read.

Reading, folding and casting a large checkpoint takes far longer than the first verdict, so the result is
kept. A record beside it says what it was made from: the weights' size, time and checksum, the configuration's
checksum, the version of this code. At a start sizes and times decide, for hashing gigabytes would take as
long as converting them; :meth:`Conversion.verify` hashes everything, when there is time for it. A file that
was made from anything else is not used, and one that is damaged is removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ofa.checkpoint import find_weights
from ofa.config import NetworkConfig
from ofa.fold import fold
from ofa.network import OFA, blank
from ofa.vision import CancelPoint

#: Raised whenever folding, casting or a layout changes what the file holds.
VERSION = 1
#: Smaller checkpoints, in bytes, are converted at every start: that is as fast.
WORTHWHILE = 64 << 20
_BLOCK = 4 << 20  # bytes hashed between two cancel points


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
                state = {name: _loaded(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
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
            _save(state, part)
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


def _save(state: dict[str, Tensor], path: Path) -> None:
    """Raises OSError, which the library hides in the text of an error of its own."""
    try:
        save_file(state, path)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _stored(value: Tensor) -> Tensor:
    """Kernels are kept channels-last; the format knows row-major tensors alone, so their axes are turned."""
    value = value.cpu()
    return value.permute(0, 2, 3, 1).contiguous() if value.dim() == 4 else value.contiguous()


def _loaded(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2) if value.dim() == 4 else value


def _sha256(path: Path, cancel_point: CancelPoint | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if cancel_point is not None:
                cancel_point()
            digest.update(block)
    return digest.hexdigest()
