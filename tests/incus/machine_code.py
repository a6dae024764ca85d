"""A tiny static program, made without a compiler: a few system calls by number, then a shell script.

A container of the tests has no compiler. A 64-bit program may call the kernel's 32-bit door as well (`int 0x80`):
such a call has other numbers, and a filter that knows only the 64-bit ones does not see it.
"""

import struct

BASE = 0x400000  # below 4 GiB, so that a pointer fits into a 32-bit call
HEADER = 64 + 56
REGISTERS_64 = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")  # rdi rsi rdx r10 r8 r9
REGISTERS_32 = (b"\xbb", b"\xb9", b"\xba", b"\xbe", b"\xbf")  # ebx ecx edx esi edi
X32 = 0x40000000
SYSCALL, INT80 = b"\x0f\x05", b"\xcd\x80"
EXECVE = 59


class Words:
    """The bytes that pointers lead to, behind the code."""

    def __init__(self, at):
        self.at = at
        self.data = b""

    def add(self, data):
        place = self.at + len(self.data)
        self.data += data
        return place


def call_64(words, number, *arguments):
    """The code of a 64-bit call, or of an x32 one if the number says so."""
    code = b"\x48\xb8" + struct.pack("<Q", number)
    for register, argument in zip(REGISTERS_64, arguments):
        code += register + struct.pack("<Q", pointer_or_number(words, argument) % 2**64)
    return code + SYSCALL


def call_32(words, number, *arguments):
    """The code of a call through the door of 32-bit programs."""
    code = b"\xb8" + struct.pack("<I", number)
    for register, argument in zip(REGISTERS_32, arguments):
        code += register + struct.pack("<I", pointer_or_number(words, argument) % 2**32)
    return code + INT80


def pointer_or_number(words, argument):
    return words.add(argument.encode() + b"\0") if isinstance(argument, str) else argument


def program(calls, script):
    """A static x86_64 program that makes calls, each (call_64 or call_32, number, arguments), then runs a script."""
    room = 64 * (len(calls) + 1) + 128
    words = Words(BASE + HEADER + room)
    code = b"".join(call(words, number, *arguments) for call, number, arguments in calls)
    argv = [words.add(word.encode() + b"\0") for word in ("sh", "-c", script)]
    words.data += b"\0" * (-len(words.data) % 8)
    # The environment is what stands on the stack behind the arguments: argc, argv …, 0, environ …; there is one
    # argument, the name of the program.
    table = words.add(struct.pack("<4Q", *argv, 0))
    code += b"\x48\x8d\x54\x24\x18"  # lea rdx, [rsp + 24]
    code += b"\x48\xbf" + struct.pack("<Q", words.add(b"/bin/sh\0"))
    code += b"\x48\xbe" + struct.pack("<Q", table)
    code += b"\xb8" + struct.pack("<I", EXECVE) + SYSCALL
    assert len(code) <= room
    whole = code.ljust(room, b"\x90") + words.data
    size = HEADER + len(whole)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + HEADER, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size, 0x1000)
    return elf + load + whole
