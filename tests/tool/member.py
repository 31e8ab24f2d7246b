# SPDX-License-Identifier: GPL-2.0
"""A process with memory of known contents, for the guest tests of ksmv.

Each argument is an area: CONTENTS[:OPTION]..., where CONTENTS are words N*TEXT
separated by commas. TEXT names a content, "zero" is zeroes, "own" is a content
that no other page has. Options: registered, locked, dontdump. Further arguments:
undumpable, fork (a child keeps the areas, too), clone (a child shares the address
space), leaderless (the first thread exits), odd (its name is ODD_NAME, and it has written to
a private mapping of the file ODD_FILE).

Prints a line once all is in place, and ends with its standard input.
"""

import _thread
import mmap
import os
import signal
import sys

# Bytes that control a terminal, that end lines elsewhere, and that are not UTF-8.
ODD_NAME = b"\x1b[2Ja)\r1\x0b\n\\\x9b\xff"
# If its lines ended at other characters than newlines, maps would have an additional area of
# everything, and smaps a wrong registered flag.
ODD_FILE = b"/tmp/a\r10000-7ffffffff000 rw-p \rVmFlags: rd wr mg\x85\xff"

_CLONE_VM = 0x100
_PR_SET_NAME = 15
_PR_SET_DUMPABLE = 4
_SYS_EXIT = 60
_STACK = 1 << 16


def libc():
    """The C library; few members need it, and importing ctypes takes long in a guest."""
    import ctypes

    return ctypes.CDLL(None, use_errno=True), ctypes


def page(text: str, number: int) -> bytes:
    """The content that a word names; `number` makes own pages different from each other."""
    if text == "zero":
        return bytes(mmap.PAGESIZE)
    name = f"{os.getpid()} {number} " if text == "own" else text
    return (name.encode() * mmap.PAGESIZE)[: mmap.PAGESIZE]


def area(spec: str, first: int) -> mmap.mmap:
    """Maps an area and fills it."""
    words, *options = spec.split(":")
    texts = [
        text
        for word in words.split(",")
        for times, _, text in [word.partition("*")]
        for _ in range(int(times))
    ]
    memory = mmap.mmap(-1, len(texts) * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The contents must be on small pages, with no other pages around them.
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    if "registered" in options:
        memory.madvise(mmap.MADV_MERGEABLE)
    if "dontdump" in options:
        memory.madvise(mmap.MADV_DONTDUMP)
    if "locked" in options:
        c, ctypes = libc()
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if c.mlock(ctypes.c_void_p(start), ctypes.c_size_t(len(memory))):
            raise OSError(ctypes.get_errno(), "mlock")
    for number, text in enumerate(texts):
        memory[number * mmap.PAGESIZE : (number + 1) * mmap.PAGESIZE] = page(text, first + number)
    return memory


def wait() -> None:
    """Prints the line that all is in place, and waits for the end of the input."""
    os.write(1, b"ready\n")
    os.read(0, 1)


def share_address_space() -> int:
    """Starts a child that shares this process's address space and does nothing; returns its id."""
    c, ctypes = libc()
    stack = ctypes.create_string_buffer(_STACK)
    top = ctypes.addressof(stack) + _STACK - 64
    c.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    pause = ctypes.cast(c.pause, ctypes.c_void_p)
    return c.clone(pause, top, _CLONE_VM | signal.SIGCHLD, None)


def be_odd() -> mmap.mmap:
    """Takes the odd name, and maps the odd file."""
    libc()[0].prctl(_PR_SET_NAME, ODD_NAME, 0, 0, 0)
    file = os.open(ODD_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(file, bytes(mmap.PAGESIZE))
    memory = mmap.mmap(file, mmap.PAGESIZE, mmap.MAP_PRIVATE)
    os.close(file)
    memory[:] = page("own", -1)
    return memory


def main(arguments: list[str]) -> None:
    """Sets up the memory that the arguments describe."""
    flags = {"undumpable", "fork", "clone", "leaderless", "odd"}.intersection(arguments)
    specs = [one for one in arguments if one not in flags]
    kept = [area(spec, number << 20) for number, spec in enumerate(specs)]
    child = 0
    if "odd" in flags:
        kept.append(be_odd())
    if "undumpable" in flags:
        libc()[0].prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if "fork" in flags:
        child = os.fork()
        if child == 0:
            signal.pause()
    if "clone" in flags:
        child = share_address_space()
    if "leaderless" in flags:
        c, _ = libc()
        _thread.start_new_thread(lambda: (wait(), os._exit(0)), ())
        c.syscall(_SYS_EXIT, 0)
    wait()
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    del kept


if __name__ == "__main__":
    main(sys.argv[1:])
