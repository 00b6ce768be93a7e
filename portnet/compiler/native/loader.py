"""Loader: an object file as functions that can be called, without LLVM.

LLVM has a loader, too, but to import LLVM takes 0.03 s, more than many a training. What LLVM
compiles at run time for x86-64 asks for one thing only: absolute addresses, of 8 bytes each (ELF's
relocation R_X86_64_64). That is what is done here; a file that asks for more is left to LLVM.
"""

import ctypes
import functools
import mmap
import platform
import struct
import sys
from typing import Any, NamedTuple

__all__ = ["load", "processor"]


class _Header(NamedTuple):
    magic: bytes
    kind: int
    machine: int
    version: int
    entry: int
    programs: int
    sections: int
    flags: int
    size: int
    program_size: int
    program_count: int
    section_size: int
    section_count: int
    names: int


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")  # where; symbol and kind; what is added
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
    except (AttributeError, LookupError, OSError, ValueError, struct.error):
        return None  # it asks for more, or memory cannot be made executable here


def _load(contents: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    head = _Header(*_HEADER.unpack_from(contents))
    if (head.magic[:7], head.kind, head.machine) != (_ELF64, _RELOCATABLE, _AMD64):
        raise ValueError("another kind of file")
    sections = [
        _Section(*_SECTION.unpack_from(contents, head.sections + i * head.section_size))
        for i in range(head.section_count)
    ]
    starts, end = {}, 0  # where each section lies in memory
    for i, s in enumerate(sections):
        if s.flags & _LOADED and s.size:
            starts[i] = -(-end // max(1, s.alignment)) * max(1, s.alignment)
            end = starts[i] + s.size
    memory = mmap.mmap(-1, end)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for i, start in starts.items():
        if sections[i].kind != _ZEROS:
            memory[start : start + sections[i].size] = _contents(contents, sections[i])

    (table,) = [s for s in sections if s.kind == _SYMBOLS]
    symbols = [_Symbol(*s) for s in _SYMBOL.iter_unpack(_contents(contents, table))]
    texts = _contents(contents, sections[table.link])

    def name(symbol: _Symbol) -> str:
        return texts[symbol.name : texts.index(b"\0", symbol.name)].decode()

    def address(symbol: _Symbol) -> int:
        if symbol.section == _UNDEFINED:  # memcpy and the like
            function = getattr(ctypes.CDLL(None), name(symbol))
            return ctypes.cast(function, ctypes.c_void_p).value or 0
        return base + starts[symbol.section] + symbol.value

    for s in sections:
        if s.kind == _RELOCATIONS_IN_PLACE or (s.kind == _RELOCATIONS and s.info in starts):
            for where, what, added in _RELOCATION.iter_unpack(_contents(contents, s)):
                if s.kind != _RELOCATIONS or what & 0xFFFFFFFF != _ABSOLUTE:
                    raise ValueError("another kind of relocation")
                if where + 8 > sections[s.info].size:
                    raise ValueError("a relocation outside of its section")
                to = address(symbols[what >> 32]) + added
                struct.pack_into("<Q", memory, starts[s.info] + where, to)

    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.c_void_p(base), ctypes.c_size_t(end), _READ | _EXECUTE
    if libc.mprotect(*given):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    defined = {name(s): s for s in symbols if s.section != _UNDEFINED}
    return {n: kind(address(defined[n])) for n in names} | {"memory": memory}


def _contents(contents: bytes, section: _Section) -> bytes:
    """Return the bytes of a section."""
    end = section.offset + section.size
    if end > len(contents):
        raise ValueError("the file ends too soon")
    return contents[section.offset : end]
