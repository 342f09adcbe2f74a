"""The `.vcc` container: a tar of `pred.h5ad.zst` and `watermark.txt`, written and read without other programs."""

import errno
import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

H5AD_MEMBER = "pred.h5ad.zst"
WATERMARK_MEMBER = "watermark.txt"
WATERMARK = b"vcc-prep"
_CHUNK = 2**20
_ROOM_LEFT = 2**28


def pack(h5ad: Path, archive: Path) -> None:
    """Compress a file into a `.vcc` archive, read the archive back, and only then give it its name.

    Args:
        h5ad: The file to pack.
        archive: The archive to write; the directory also holds the temporary files.

    Raises:
        ImportError: If `zstandard` is not installed.
        OSError: If the archive does not hold, byte for byte, what was packed.
    """
    compressor = _zstandard().ZstdCompressor(threads=-1, write_checksum=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{archive.name}.") as folder:
        compressed, draft = Path(folder, H5AD_MEMBER), Path(folder, archive.name)
        with h5ad.open("rb") as source, compressed.open("wb") as target:
            compressor.copy_stream(source, target, size=h5ad.stat().st_size)
        with tarfile.open(draft, "w", format=tarfile.GNU_FORMAT) as tar:
            with compressed.open("rb") as source:
                tar.addfile(_member(H5AD_MEMBER, compressed.stat().st_size), source)
            tar.addfile(_member(WATERMARK_MEMBER, len(WATERMARK)), io.BytesIO(WATERMARK))
        compressed.unlink()
        with opened(draft) as stream, h5ad.open("rb") as source:
            if _digest(stream) != _digest(source):
                raise OSError(f"{archive} did not read back as it was written; the disk may be full or failing.")
        draft.replace(archive)


def unpack(archive: Path, h5ad: Path) -> None:
    """Extract the .h5ad file of a `.vcc` archive.

    Args:
        archive: The archive.
        h5ad: The file to write.

    Raises:
        ValueError: If the file is not such an archive.
        ImportError: If `zstandard` is not installed.
    """
    draft = h5ad.with_name(f".{h5ad.name}.part")
    try:
        room = shutil.disk_usage(h5ad.parent).free
        with opened(archive) as stream, draft.open("wb") as target:
            while chunk := stream.read(_CHUNK):
                room -= len(chunk)
                # A few kilobytes may unpack to more than there is: the disk is left usable for the others on it.
                if room < _ROOM_LEFT:
                    raise OSError(errno.ENOSPC, f"{archive} unpacks to more than the disk holds", str(h5ad))
                target.write(chunk)
        draft.replace(h5ad)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def opened(archive: Path) -> Iterator[IO[bytes]]:
    """The decompressed .h5ad of an archive as a stream of bytes, once its watermark has been checked."""
    zstandard = _zstandard()
    try:
        with _opened(archive) as stream:
            yield stream
    except (tarfile.TarError, zstandard.ZstdError, OverflowError) as error:
        raise ValueError(f"{archive} is not a .vcc archive, or a damaged one: {error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    with tarfile.open(archive, "r:") as tar:
        names = tar.getnames()
        if sorted(names) != [H5AD_MEMBER, WATERMARK_MEMBER]:
            raise ValueError(f"{archive} holds {names} instead of {H5AD_MEMBER} and {WATERMARK_MEMBER}")
        for member in tar.getmembers():
            if not member.isreg():
                raise ValueError(f"{member.name} of {archive} is not a plain file")
        watermark = tar.extractfile(WATERMARK_MEMBER)
        if watermark is None or watermark.read(2 * len(WATERMARK)).strip() != WATERMARK:
            raise ValueError(f"{WATERMARK_MEMBER} of {archive} does not hold {WATERMARK.decode()!r}")
        compressed = tar.extractfile(H5AD_MEMBER)
        with _zstandard().ZstdDecompressor().stream_reader(cast(IO[bytes], compressed)) as stream:
            yield stream


def compressed_size(sample: bytes) -> int:
    """What these bytes take once compressed as `pack` does."""
    return len(_zstandard().ZstdCompressor().compress(sample))


def _member(name: str, size: int) -> tarfile.TarInfo:
    # No time, user or machine is recorded: packing the same file twice gives the same archive.
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _digest(stream: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("Submission files need zstandard: pip install 'state-hf[submission]'") from error
    return zstandard
