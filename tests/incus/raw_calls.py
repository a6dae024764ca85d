"""Programs of some hundred bytes that make one system call as no library would; no compiler is needed for them."""

from __future__ import annotations

import struct

_BASE = 0x400000  # where a program lies in memory: below 4 GiB, for 32-bit calls
_CODE = 120  # bytes of the two headers before it (elf(5))
_ROOM = 0x200  # bytes for the code, as many for the arguments in memory, and a page of zeros behind them
MEMORY = _BASE + _CODE + _ROOM
ZEROS = MEMORY + _ROOM
SYSCALL, INT_80 = b"\x0f\x05", b"\xcd\x80"
# movslq %eax,%rax; test %rax,%rax; jns 1f; neg %eax; jmp 2f; 1: xor %eax,%eax; 2: mov %eax,%edi; mov $60,%eax; syscall
_END = bytes.fromhex("4863c04885c07904f7d8eb0231c089c7b83c0000000f05")
_REGISTERS = {
    SYSCALL: (b"\x48\xb8", b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba"),  # rax, rdi, rsi, rdx, r10
    INT_80: (b"\x48\xb8", b"\x48\xbb", b"\x48\xb9", b"\x48\xba", b"\x48\xbe"),  # rax, rbx, rcx, rdx, rsi
}


def program(how: bytes, number: int, *arguments: int, memory: tuple[int, ...] = ()) -> bytes:
    """A static program for x86_64 that makes a call by `SYSCALL` or, as a 32-bit one, by `INT_80`.

    `memory` are words of 32 bits at MEMORY. It ends with 0 if the call succeeded, else with its error number.
    """
    loads = zip(_REGISTERS[how], (number, *arguments))
    code = b"".join(load + struct.pack("<Q", value) for load, value in loads) + how + _END
    body = code.ljust(_ROOM, b"\0") + struct.pack(f"<{len(memory)}I", *memory).ljust(_ROOM, b"\0")
    size = _CODE + len(body)
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _CODE, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size + 0x1000, 0x1000)
    return head + segment + body
