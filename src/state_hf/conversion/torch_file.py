"""Opens the files that PyTorch and pickle write, as data: tensors stay in the file until they are read."""

import io
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.foreign_files import foreign_archive, foreign_file, is_cut_off
from state_hf.conversion.lazy_tensor import LazyStorage, LazyTensor
from state_hf.conversion.pickle_reader import Builders, PickleReader, RefusedCall
from state_hf.conversion.pickled_names import Global
from state_hf.conversion.pickled_types import PickledArray, plain_builders

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# A pickle holds names and shapes; the largest, with a name for each of half a million genes, has 100 MB.
_MAX_PICKLE_BYTES = 2**30
# What zipfile raises over bytes that are no archive.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    UnicodeError,
    struct.error,
)
_STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}


def read_pickled(path: Path) -> Any:
    """The content of a file written by `torch.save` (new or old format) or by pickle.

    Args:
        path: A `.ckpt`, `.pt`, `.torch` or `.pkl` file.

    Returns:
        Containers, numbers and text; tensors are `LazyTensor`s, other objects `Record`s.

    Raises:
        UnsafeCheckpointError: If the file names code. None of it is run.
        CheckpointError: If it is truncated or malformed.
        FileNotFoundError: If there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    foreign = foreign_file(path)
    if foreign is not None:
        raise CheckpointError(foreign)
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path, file)
        file.seek(0)
        return _read_stream(file, path, str(path), path.stat().st_size)


def _read_zip(path: Path, file: IO[bytes]) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(path, file, archive)
    except _BROKEN_ARCHIVE as error:
        cut = f"it is cut off after {path.stat().st_size:,} bytes. Fetch it again" if is_cut_off(path) else ""
        cause = cut or f"it is damaged ({error})"
        raise CheckpointError(f"{path} is broken: it begins as a file of torch.save, but {cause}.") from error


def _read_archive(path: Path, file: IO[bytes], archive: zipfile.ZipFile) -> Any:
    foreign = foreign_archive(path, archive)
    if foreign is not None:
        raise CheckpointError(foreign)
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{path} is not a file of torch.save: it holds {len(pickles)} entries named data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    entries = {info.filename: info for info in archive.infolist()}
    for info in entries.values():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(f"{path} is refused: its entry {info.filename!r} is compressed; torch.save does not.")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported.")
    if entries[pickles[0]].file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path} is refused: its pickle has {entries[pickles[0]].file_size} bytes.")
    size = path.stat().st_size
    storages: dict[str, LazyStorage] = {}

    def storage_of(key: str) -> LazyStorage:
        if key not in storages:
            info = entries.get(f"{root}data/{key}")
            if info is None:
                raise CheckpointError(f"{path} is broken: the data of its tensor {key!r} are missing.")
            offset = _data_offset(file, info)
            if offset + info.file_size > size:
                raise CheckpointError(f"{path} is broken: the data of its tensor {key!r} are cut off.")
            storages[key] = LazyStorage(path, str(path), offset, info.file_size)
        return storages[key]

    pickled = archive.read(pickles[0])
    stream = cast(IO[bytes], _Within(io.BytesIO(pickled), len(pickled)))
    return _reader(stream, str(path), lambda key, _dtype, _numel: storage_of(key)).read()


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1]


class _Within:
    """A file whose reads stop at its end: asked for more, Python would make room for it before it looks.

    Args:
        file: The file.
        size: Its number of bytes.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.tell, self.seek = file.tell, file.seek

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, max(0, self.size - self.tell())))

    def readline(self) -> bytes:
        return self.file.readline(_MAX_PICKLE_BYTES)


def _read_stream(whole: IO[bytes], source: Path | bytes, name: str, size: int) -> Any:
    """A pickle, or PyTorch's format before 1.6: five pickles, then the storages' numbers one after another."""
    file = cast(IO[bytes], _Within(whole, size))
    storages: dict[str, LazyStorage] = {}
    types: dict[str, torch.dtype] = {}

    def storage_of(key: str, dtype: torch.dtype, numel: int) -> LazyStorage:
        types[key] = dtype
        return storages.setdefault(key, LazyStorage(source, name, 0, numel * dtype.itemsize))

    first = _reader(file, name, storage_of).read()
    if first != _LEGACY_MAGIC or not isinstance(first, int):
        if storages:
            raise CheckpointError(f"{name} is broken: it refers to tensors, but it is not a file of torch.save.")
        return first
    if _reader(file, name).read() != _LEGACY_PROTOCOL:
        raise CheckpointError(f"{name} has a format of PyTorch that is not known.")
    _reader(file, name).read()  # the machine that wrote it
    content = _reader(file, name, storage_of).read()
    for key in _reader(file, name).read():
        if key not in storages:
            raise CheckpointError(f"{name} is broken: its storage {key!r} belongs to no tensor.")
        length = file.read(8)
        if len(length) < 8:
            raise CheckpointError(f"{name} is cut off: it ends before the numbers of its tensor {key!r}.")
        count = struct.unpack("<q", length)[0]
        storages[key].offset = file.tell()
        if count * types[key].itemsize != storages[key].nbytes or file.tell() + storages[key].nbytes > size:
            raise CheckpointError(f"{name} is broken: the data of its tensor {key!r} are cut off.")
        file.seek(storages[key].nbytes, io.SEEK_CUR)
    return content


def _reader(stream: IO[bytes], name: str, storage_of: Any = None) -> PickleReader:
    def persistent_load(identity: Any) -> Any:
        if isinstance(identity, tuple) and identity[:1] == ("module",) and isinstance(identity[1], Global):
            return identity[1]  # the old format puts a module's class here, with its source code as text
        kind, storage_type, key, _location, numel = identity[:5]
        if kind != "storage" or not isinstance(storage_type, Global) or storage_type.name not in _STORAGE_TYPES:
            raise ValueError(f"a reference to a {kind}")
        if not isinstance(numel, int) or numel < 0 or not isinstance(key, str):
            raise ValueError("a reference to a storage without a size")
        if len(identity) > 5 and identity[5] is not None:
            raise ValueError("a view of a storage")
        dtype = _STORAGE_TYPES[storage_type.name]
        storage = storage_of(key, dtype, numel)
        if numel * dtype.itemsize > storage.nbytes:
            raise CheckpointError(
                f"{name} is broken: a tensor's storage has {storage.nbytes} bytes, not {numel} values."
            )
        return storage, dtype

    return PickleReader(
        stream,
        name,
        builders={**plain_builders(), **_tensor_builders(name)},
        persistent_load=persistent_load if storage_of is not None else None,
    )


def _tensor_builders(name: str) -> Builders:
    def tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> LazyTensor:
        return LazyTensor(storage[0], storage[1], offset, tuple(size), tuple(stride))

    def tensor_of_type(
        storage: Any, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Global, *_: Any
    ) -> LazyTensor:
        return LazyTensor(storage[0], _DTYPES[dtype.name], offset, tuple(size), tuple(stride))

    def parameter(data: LazyTensor, *_: Any) -> LazyTensor:
        return data

    def tensor_of_class(how: Global, _kind: Any, arguments: tuple[Any, ...], *_: Any) -> LazyTensor:
        """A tensor with attributes, or of a class of its own: how a plain one is made, and its arguments."""
        if not isinstance(how, Global) or str(how) not in plainly:
            raise RefusedCall(f"to make a tensor by calling {how}")
        return plainly[str(how)](*arguments)

    def tensor_of_array(array: Any, dtype: Global, *_: Any) -> LazyTensor:
        """What is saved of tensors on devices that PyTorch has no storages for, such as TPUs."""
        value = array.value if isinstance(array, PickledArray) else array
        whole = value.tobytes()
        stored = torch.from_numpy(np.empty(0, value.dtype)).dtype
        if stored != _DTYPES[dtype.name]:
            raise CheckpointError(f"{name} is broken: a tensor of {dtype} is stored as {stored}.")
        strides = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim))
        return LazyTensor(LazyStorage(whole, name, 0, len(whole)), stored, 0, value.shape, strides)

    def nested(content: bytes) -> tuple[LazyStorage, torch.dtype]:
        if not isinstance(content, bytes) or content[:2] == b"PK":
            raise UnsafeCheckpointError(f"{name} is refused: a tensor in it is a file of its own, of another format.")
        storage = _read_stream(io.BytesIO(content), content, f"a tensor in {name}", len(content))
        if not (isinstance(storage, tuple) and len(storage) == 2 and isinstance(storage[0], LazyStorage)):
            raise ValueError("a nested file without a storage")
        return storage

    plainly: Builders = {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor_of_type,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "torch._utils._rebuild_device_tensor_from_numpy": tensor_of_array,
    }
    return {
        **plainly,
        "torch._tensor._rebuild_from_type_v2": tensor_of_class,
        "torch.storage._load_from_bytes": nested,
        "torch.serialization._get_layout": _named,
        "torch.Size": _size,
        "torch.device": _device,
    }


def _named(name: str) -> str:
    if not isinstance(name, str):
        raise ValueError("a layout without a name")
    return name


def _size(sizes: Any = ()) -> tuple[int, ...]:
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, int) for size in sizes):
        raise ValueError("a shape that is no numbers")
    return tuple(sizes)


def _device(kind: str, index: int | None = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise ValueError("a device without a name")
    return kind if index is None else f"{kind}:{index}"


__all__ = ["read_pickled"]
