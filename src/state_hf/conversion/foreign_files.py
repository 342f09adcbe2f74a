"""What a file is that lies where a checkpoint should, told from its first bytes: the true cause, and not "broken"."""

import re
import zipfile
from pathlib import Path

_HEAD_BYTES = 4096
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title>|<message>(.*?)</message>", re.IGNORECASE | re.DOTALL)
_ANSWER = re.compile(rb'\s*\{\s*"(error|message|detail)"')
_AGAIN = "Fetch it again"
# Formats by their first bytes: what the file is, and what helps.
_FORMATS = {
    b"\x1f\x8b": ("is compressed with gzip", "Unpack it with gunzip"),
    b"\x28\xb5\x2f\xfd": ("is compressed with Zstandard", "Unpack it with zstd -d"),
    b"\xfd7zXZ\x00": ("is compressed with xz", "Unpack it with unxz"),
    b"BZh": ("is compressed with bzip2", "Unpack it with bunzip2"),
    b"\x89HDF\r\n\x1a\n": (
        "is an HDF5 file (as .h5ad files are), which holds data and no model",
        "Give the checkpoint",
    ),
    b"\x93NUMPY": ("is an array of NumPy (.npy), and no model", "Give the checkpoint"),
    b"GGUF": ("is a GGUF file, which is no format of State's models", "Give the checkpoint"),
}


def foreign_file(path: Path) -> str | None:
    """A sentence on what a file is, if it is a known kind of file that is none of PyTorch, pickle or YAML.

    Args:
        path: A file that exists.

    Returns:
        What it is and what to do, beginning with its name; None for anything else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    found = _of_bytes(head, size)
    return None if found is None else f"{path} {found[0]}. {found[1]}."


def _of_bytes(head: bytes, size: int) -> tuple[str, str] | None:
    if size == 0:
        return "is empty (0 bytes): a copy or download of it failed", _AGAIN
    if head.startswith(_LFS):
        stated = re.search(rb"^size (\d+)", head, re.MULTILINE)
        whole = f", which has {int(stated[1]):,} bytes" if stated else ""
        return (
            f"is a pointer of Git LFS ({size} bytes of text) and not the file itself{whole}",
            "Fetch that with `git lfs pull` in its repository, or download it with `hf download`",
        )
    if _PAGE.match(head):
        title = _TITLE.search(head)
        words = b" ".join((title[1] or title[2]).split()).decode("utf-8", "replace") if title else ""
        named = f" ({words[:80]!r})" if words else ""
        return (
            f"is a web page{named}: its address leads to a page, or the server asks for a login or refused",
            "Download the file itself",
        )
    if _ANSWER.match(head):
        return f"is a server's answer and not the file: {head[:120].decode('utf-8', 'replace').strip()}", _AGAIN
    for signature, found in _FORMATS.items():
        if head.startswith(signature):
            return found
    if head[257:262] == b"ustar":
        return "is a tar archive", "Unpack it with tar -xf, and give the folder or checkpoint in it"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < size:
        return "is a safetensors file under another name", "Rename it to end in .safetensors"
    if not head.strip(b"\x00"):
        return f"holds zeros where it should begin ({size:,} bytes): a copy or download of it did not finish", _AGAIN
    return None


def foreign_archive(path: Path, archive: zipfile.ZipFile) -> str | None:
    """The same for a zip archive without torch.save's entries."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            f"{path} is a program of TorchScript (torch.jit.save), which is code and is not read. Give the checkpoint "
            "that it was made of."
        )
    if names and all(name.endswith(".npy") for name in names):
        return f"{path} is an archive of NumPy arrays (.npz), and no model. Give the checkpoint."
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return None
    first = ", ".join(names[:3]) or "nothing"
    return f"{path} is a zip archive of something else ({first}), and not a file of torch.save: unpack it first."


def is_cut_off(path: Path) -> bool:
    """Whether a zip archive has no end: torch.save writes its list of contents last."""
    with path.open("rb") as file:
        # The end has 22 bytes, then a comment of at most 65,535.
        file.seek(max(0, path.stat().st_size - 22 - 65_535))
        return b"PK\x05\x06" not in file.read()


__all__ = ["foreign_archive", "foreign_file", "is_cut_off"]
