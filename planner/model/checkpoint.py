"""What a checkpoint really stores, from the headers of its safetensors files: no weights are read.

facts = local_facts(Path("/models/Qwen3-8B"))    # None where the folder has no weights
facts.total_bytes, facts.by_dtype["BF16"].parameters
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from planner import strict_json
from planner.errors import InputError
from planner.model import hub
from planner.text import printable, shown

INDEX_FILE = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
"""The limit of the format itself (safetensors' MAX_HEADER_SIZE)."""
LARGEST_INDEX = 200 << 20

_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "C64": 64,
    "I64": 64,
    "U64": 64,
    "I32": 32,
    "U32": 32,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Tensors of one dtype."""

    tensors: int
    parameters: int
    """Elements of the tensors; a packed 4-bit weight counts as the integers that hold it."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What the safetensors files of a checkpoint hold."""

    where: str
    """The folder, or the repository on the Hub."""
    by_dtype: Mapping[str, Stored]
    """By the format's own names: "BF16", "F8_E4M3", "U8" …"""
    names: tuple[str, ...]
    """All tensors, in the order of the files."""
    files: tuple[str, ...]
    missing_files: tuple[str, ...] = ()
    """Files that the index names and the folder lacks, as while a download is under way."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors, headers aside."""
        return sum(stored.bytes for stored in self.by_dtype.values())

    @property
    def parameters(self) -> int:
        """Elements as stored: a packed int32 counts as one."""
        return sum(stored.parameters for stored in self.by_dtype.values())

    @property
    def tensors(self) -> int:
        """How many tensors the files hold."""
        return sum(stored.tensors for stored in self.by_dtype.values())

    @property
    def complete(self) -> bool:
        """Whether every file that the index names is there."""
        return not self.missing_files


def local_facts(folder: Path) -> CheckpointFacts | None:
    """The safetensors files of a model's folder, those of its index where it has one, as vLLM loads them.

    None where there are none. InputError for a file that is damaged.
    """
    try:
        present = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".safetensors"))
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be read ({error.strerror})") from None
    if not present:
        return None
    wanted = _indexed_files(folder) if os.path.lexists(folder / INDEX_FILE) else _without_duplicates(present)
    here = [name for name in wanted if name in set(present)]
    if not here:
        return None
    tensors = (tensor for name in here for tensor in _file_tensors(folder / name))
    missing = tuple(name for name in wanted if name not in set(present))
    return _facts(printable(folder), tensors, files=tuple(here), missing=missing)


def hub_facts(
    repo: str, *, revision: str | None = None, offline: bool | None = None, token: str | None = None
) -> CheckpointFacts | None:
    """The safetensors files of a Hub repository, by ranged requests for their headers.

    None where the repository has none, or the Hub may not be asked. InputError as for a config.
    """
    with hub.plain_errors(repo, revision):
        import huggingface_hub
        from huggingface_hub import errors

        if hub.is_offline(offline):
            return None
        try:
            with hub.quiet():
                found = huggingface_hub.get_safetensors_metadata(repo, revision=revision, token=token)
        except errors.NotASafetensorsRepoError:
            return None
        except errors.SafetensorsParsingError as error:
            raise InputError(f"{repo}: {printable(str(error).splitlines()[0])}") from None
    tensors = (
        _Tensor(name, str(info.dtype), math.prod(info.shape), info.data_offsets[1] - info.data_offsets[0])
        for file in found.files_metadata.values()
        for name, info in file.tensors.items()
    )
    return _facts(repo, tensors, files=tuple(found.files_metadata), missing=())


class _Tensor(NamedTuple):
    name: str
    dtype: str
    elements: int
    bytes: int


def _facts(
    where: str, tensors: Iterable[_Tensor], *, files: tuple[str, ...], missing: tuple[str, ...]
) -> CheckpointFacts:
    names: list[str] = []
    sums: dict[str, list[int]] = {}
    for tensor in tensors:
        names.append(tensor.name)
        total = sums.setdefault(tensor.dtype, [0, 0, 0])
        total[0] += 1
        total[1] += tensor.elements
        total[2] += tensor.bytes
    by_dtype = {
        printable(dtype, 20): Stored(tensors=n, parameters=p, bytes=b) for dtype, (n, p, b) in sorted(sums.items())
    }
    return CheckpointFacts(where=where, by_dtype=by_dtype, names=tuple(names), files=files, missing_files=missing)


def _indexed_files(folder: Path) -> list[str]:
    """The files that the index names, in its order. Never a path that leaves the folder."""
    where = printable(folder / INDEX_FILE)
    content = strict_json.read_bytes(folder / INDEX_FILE, where, LARGEST_INDEX)
    weight_map = strict_json.parse_object(content, where).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{where}: has no weight_map; download the file again")
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise InputError(f"{where}: weight_map names {shown(name)}, not a safetensors file of the folder")
    return list(dict.fromkeys(weight_map.values()))


def _without_duplicates(names: list[str]) -> list[str]:
    """Without Mistral's consolidated.safetensors, the same weights once more, which vLLM leaves out beside others."""
    usual = [name for name in names if not name.startswith("consolidated")]
    return usual or names


def _file_tensors(path: Path) -> Iterator[_Tensor]:
    where = printable(path)
    header, data_bytes = _read_header(path, where)
    covered = 0
    for name, info in header.items():
        if name != "__metadata__":
            tensor = _tensor(name, info, data_bytes, where)
            covered += tensor.bytes
            yield tensor
    if covered != data_bytes:
        raise _damaged(where, f"its header describes {covered} bytes of weights, the file holds {data_bytes}")


def _read_header(path: Path, where: str) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and how many bytes follow it."""
    with strict_json.open_regular(path, where) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _damaged(where, f"it has only {size} bytes")
        length = int.from_bytes(prefix, "little")
        if length > LARGEST_HEADER:
            raise _damaged(where, f"its header claims {length} bytes, the format allows {LARGEST_HEADER}")
        if length > size - 8:
            raise _damaged(where, f"its header of {length} bytes is cut off")
        content = file.read(length)
    header = strict_json.parse_object(content, f"{where} (its header; download the file again)")
    return header, size - 8 - length


def _tensor(name: str, info: Any, data_bytes: int, where: str) -> _Tensor:
    """One entry of a header, checked: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}."""
    if isinstance(info, dict):
        dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
        if isinstance(dtype, str) and _whole_numbers(shape, 32) and _whole_numbers(offsets, 2) and len(offsets) == 2:
            stored, elements = offsets[1] - offsets[0], math.prod(shape)
            bits = _BITS.get(dtype)
            fits = bits is None or -(-elements * bits // 8) == stored
            if fits and stored >= 0 and offsets[1] <= data_bytes:
                return _Tensor(name, dtype, elements, stored)
    raise _damaged(where, f"its header describes {shown(name)} wrongly")


def _whole_numbers(value: object, longest: int) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > longest:
        return False
    return all(type(item) is int and 0 <= item < 2**60 for item in value)


def _damaged(where: str, how: str) -> InputError:
    return InputError(f"{where}: not a whole safetensors file, {how}; download it again")
