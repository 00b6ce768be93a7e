"""Loader: an object file as functions that can be called, without LLVM.

LLVM has a loader, too, but to import LLVM takes 0.03 s, more than many a training. What LLVM
compiles at run time for x86-64 asks for one thing only: absolute addresses, of 8 bytes each (ELF's
relocation R_X86_64_64). That is what is done here; files with other relocations are left to LLVM.
"""

import ctypes
import functools
import mmap
import platform
import struct
import sys
from typing import Any

__all__ = ["load", "processor"]


# The parts of a file, and which of their numbers are used. A name is where its text begins.
_HEADER = struct.Struct("<7s9xHH20xQ10xHH2x")  # magic, kind, machine; of sections: at, size, count
_SECTION = struct.Struct("<4xIQ8xQQIIQ8x")  # kind, flags, offset, size, link, target, alignment
_SYMBOL = struct.Struct("<I2xHQ8x")  # name, section, value
_RELOCATION = struct.Struct("<QIIq")  # where, kind, symbol, what is added
_ELF64, _RELOCATABLE, _AMD64 = b"\x7fELF\x02\x01\x01", 1, 62
_SYMBOLS, _RELOCATIONS, _ZEROS, _RELOCATIONS_IN_PLACE = 2, 4, 8, 9  # kinds of sections
_LOADED = 2  # a flag of sections
_UNDEFINED = 0  # the section of a symbol that is elsewhere
_ABSOLUTE = 1  # a kind of relocations: R_X86_64_64
_READ, _EXECUTE = 1, 4


@functools.cache
def processor() -> str:
    """Return what Linux says of this processor; "" where files are not loaded here.

    Code for one processor must not run on another that has the same folder.
    """
    here = sys.platform, platform.machine(), sys.maxsize > 1 << 32
    if here != ("linux", "x86_64", True):
        return ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(1 << 13).partition("\n\n")[0].splitlines()
    except OSError:
        return ""
    wanted = "vendor_id", "cpu family", "model", "stepping", "flags"
    found = [line for line in first if line.startswith(wanted)]
    return "\n".join(found) if any(line.startswith("flags") for line in found) else ""


def load(contents: bytes, names: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the functions of these names, and what keeps them alive; None: LLVM must load them.

    Each function takes the address of its table.
    """
    try:
        return _load(contents, names)
    except (AttributeError, LookupError, OSError, OverflowError, ValueError, struct.error):
        return None  # another kind of file, or memory cannot be made executable here


def _load(contents: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    *kind, at, size, count = _HEADER.unpack_from(contents)
    if kind != [_ELF64, _RELOCATABLE, _AMD64]:
        raise ValueError("another kind of file")
    sections = [_SECTION.unpack_from(contents, at + i * size) for i in range(count)]
    starts: dict[int, int] = {}  # where each section lies in memory
    end = 0
    for i, (_, flags, _, length, _, _, alignment) in enumerate(sections):
        if flags & _LOADED and length:
            starts[i] = -(-end // max(1, alignment)) * max(1, alignment)
            end = starts[i] + length
    memory = mmap.mmap(-1, end, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for i, start in starts.items():
        if sections[i][0] != _ZEROS:
            part = _part(contents, sections[i])
            memory[start : start + len(part)] = part

    (table,) = [s for s in sections if s[0] == _SYMBOLS]
    symbols = list(_SYMBOL.iter_unpack(_part(contents, table)))
    texts = _part(contents, sections[table[4]])

    def text(name: int) -> str:
        return texts[name : texts.index(b"\0", name)].decode()

    def address(name: int, section: int, value: int) -> int:
        if section == _UNDEFINED:  # memcpy and the like
            function = getattr(ctypes.CDLL(None), text(name))
            return ctypes.cast(function, ctypes.c_void_p).value or 0
        return base + starts[section] + value

    for section in sections:
        kind, target = section[0], section[5]
        if kind == _RELOCATIONS_IN_PLACE or (kind == _RELOCATIONS and target in starts):
            for where, how, symbol, added in _RELOCATION.iter_unpack(_part(contents, section)):
                if kind != _RELOCATIONS or how != _ABSOLUTE:
                    raise ValueError("another kind of relocation")
                if where + 8 > sections[target][3]:
                    raise ValueError("a relocation outside of its section")
                to = address(*symbols[symbol]) + added
                struct.pack_into("<Q", memory, starts[target] + where, to)

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(end), _READ | _EXECUTE):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    defined = {text(s[0]): s for s in symbols if s[1] != _UNDEFINED}
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return {n: call(address(*defined[n])) for n in names} | {"memory": memory}


def _part(contents: bytes, section: tuple[int, ...]) -> bytes:
    """Return the bytes of a section."""
    offset, size = section[2], section[3]
    if offset + size > len(contents):
        raise ValueError("the file ends too soon")
    return contents[offset : offset + size]
