"""A cache of the folded network in its final number format, in a memory-mapped file.

Reading, folding and casting a large checkpoint takes far longer than a verdict, so the result is cached. A
record beside it identifies the source: size, time and checksum of the weights, checksum of the configuration,
version of this code. Normal starts compare sizes and times, since hashing gigabytes takes as long as
converting them; :meth:`Conversion.verify` hashes everything. A file of another source is not used, and a
damaged one is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
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

#: Increment when folding, casting or the layout changes.
VERSION = 2
#: Smaller checkpoints, in bytes, are converted at every start, which is as fast.
WORTHWHILE = 64 << 20
_BLOCK = 4 << 20  # bytes hashed between cancel points
_ALIGNMENT = 64  # bytes, as torch's allocator
_GAP = "_gap."  # prefix of the padding entries
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies a file's version without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


class Checksums:
    """SHA-256 of sources, each computed once for all formats it is converted to.

    For a single pass: a file may change without a new modification time.

    Args:
        known: returns the SHA-256 of a file that was just verified and has the same size and time, else None.
    """

    def __init__(self, known: Callable[[Path], str | None] = lambda path: None) -> None:
        self._known = known
        self._read: dict[Path, tuple[Stamp, str]] = {}

    def of(self, path: Path, cancel_point: CancelPoint | None) -> str:
        """The SHA-256 of ``path``. Raises OSError, and what ``cancel_point`` raises."""
        if (known := self._known(path)) is not None:
            return known
        stamp = Stamp.of(path)  # taken first, so that a write during hashing is detected
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = stamp, _sha256(path, cancel_point)
        return self._read[path][1]


class ConvertedFile:
    """Tensors made from the weights of one model folder, in one number format.

    Args:
        folder: a model folder. Its weights are identified now, so create this before reading them.
        cache: the folder of converted files; created on writing.
        name: of the number format.

    Raises:
        CheckpointError: the folder has no weights.
        OSError: a file cannot be accessed.
    """

    def __init__(self, folder: Path, cache: Path, name: str) -> None:
        self.source = find_weights(folder)
        self._stamp = Stamp.of(self.source)
        self._configuration = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        place = hashlib.sha256(os.fsencode(self.source.resolve())).hexdigest()[:16]
        self.path = cache / f"{place}-{name}.safetensors"
        self._record = self.path.with_suffix(".json")

    @property
    def worthwhile(self) -> bool:
        """Whether the source is large enough for a converted file."""
        return self._stamp.size >= WORTHWHILE

    def of_same_source(self, other: ConvertedFile) -> bool:
        """Whether both were created for the same version of the weights."""
        return self._stamp == other._stamp

    @property
    def current(self) -> bool:
        """Whether there is a converted file of this source, by sizes and times."""
        record = self.record()
        try:
            return record is not None and asdict(Stamp.of(self.path)) == record["file"]
        except (OSError, KeyError):
            return False

    def read_state(self) -> dict[str, Tensor] | None:
        """Map the tensors; None if there is no valid file."""
        if not self.current:
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                names = [name for name in file.keys() if not name.startswith(_GAP)]  # noqa: SIM118
                return {name: _loaded(file.get_tensor(name)) for name in names}
        except (OSError, SafetensorError):
            return None

    def write_state(
        self,
        state: Mapping[str, Tensor],
        cancel_point: CancelPoint | None = None,
        checksums: Checksums | None = None,
        more: Mapping[str, object] | None = None,
    ) -> bool:
        """Write what was made from the source, with ``more`` in the record, atomically. False if the source
        has changed since.

        Raises:
            OSError: the disk is full or permission is denied.
        """
        source_sha256 = (checksums or Checksums()).of(self.source, cancel_point)
        if Stamp.of(self.source) != self._stamp:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not by PID: containers that share the folder have equal ones.
        token = secrets.token_hex(8)
        part, record_part = (
            path.with_name(f"{path.name}.{token}.part") for path in (self.path, self._record)
        )
        try:
            _write_aligned({name: _stored(one) for name, one in state.items()}, part)
            sums = {"source_sha256": source_sha256, "file_sha256": _sha256(part, cancel_point)}
            record = {**self._made_from(), **(more or {}), **sums, "file": asdict(Stamp.of(part))}
            record_part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            self._record.unlink(missing_ok=True)  # no record may refer to the wrong file meanwhile
            part.replace(self.path)
            record_part.replace(self._record)
        finally:
            part.unlink(missing_ok=True)
            record_part.unlink(missing_ok=True)
        return True

    def verify(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> bool:
        """Hash source and converted file; remove the latter if either has changed."""
        record = self.record()
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
        """Remove the converted file. Raises OSError."""
        self._record.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _made_from(self) -> dict[str, object]:
        return {"version": VERSION, "source": asdict(self._stamp), "configuration": self._configuration}

    def record(self) -> dict[str, object] | None:
        """The record, if it matches this source and this code."""
        try:
            record = json.loads(self._record.read_text("utf-8"))
            made_from = {key: record[key] for key in self._made_from()}
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return record if made_from == self._made_from() else None


class Conversion(ConvertedFile):
    """The converted network in ``dtype``."""

    def __init__(self, folder: Path, cache: Path, dtype: torch.dtype) -> None:
        super().__init__(folder, cache, str(dtype).removeprefix("torch."))
        self._dtype = dtype

    def read(self, config: NetworkConfig) -> OFA | None:
        """Map the converted file as a network; None if there is no valid one."""
        state = self.read_state()
        if state is None:
            return None
        network = _skeleton(config, self._dtype)
        for name in _copies(config):
            if "encoder.embed_tokens.weight" in state:
                state[name] = state["encoder.embed_tokens.weight"]
        expected = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
        if expected != {name: (value.shape, value.dtype) for name, value in state.items()}:
            return None
        network.load_state_dict(state, strict=True, assign=True)
        network.tie_embeddings()
        return network

    def write(
        self, network: OFA, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None
    ) -> bool:
        """As :meth:`write_state`, of a network that was read from the source, folded and cast."""
        copies = _copies(network.config)
        state = {name: one for name, one in network.state_dict().items() if name not in copies}
        return self.write_state(state, cancel_point, checksums)


def _skeleton(config: NetworkConfig, dtype: torch.dtype) -> OFA:
    """A folded and cast network without weights (on the meta device)."""
    network = blank(config)
    fold(network)
    network.cast(dtype)
    return network


def _copies(config: NetworkConfig) -> tuple[str, ...]:
    """Further names of the shared embedding, which is stored once."""
    output = ("decoder.output_projection.weight",) if config.share_decoder_input_output_embed else ()
    return ("decoder.embed_tokens.weight", *output)


def _stored(value: Tensor) -> Tensor:
    """Permute channels-last kernels, since the format only stores row-major tensors."""
    value = value.cpu()
    return value.permute(0, 2, 3, 1).contiguous() if value.dim() == 4 else value.contiguous()


def _loaded(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2) if value.dim() == 4 else value


def _write_aligned(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with all tensors aligned to 64 bytes. Raises OSError.

    The library aligns to 8 bytes. With such addresses the matrix libraries select other kernels, whose
    results differ in the last bits from those of the unconverted weights.
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
