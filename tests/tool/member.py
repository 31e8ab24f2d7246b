# SPDX-License-Identifier: GPL-2.0
"""A process with memory of known contents, for the guest tests of ksmv.

Each argument is an area: CONTENTS[:OPTION]..., where CONTENTS are words N*TEXT
separated by commas. TEXT names a content, "zero" is zeroes, "own" is a content
that no other page has. Options: registered, locked, dontdump, wipeonfork, dontfork, memfd (shared
memory), huge (a huge page), volatile (all pages change again and again). Further arguments:
undumpable, user=ID (it becomes that user), fork (a child keeps the areas, too), fork=ID (the same,
and the child becomes that user and writes to the areas), clone (a child shares the address space), leaderless (the first thread
exits), odd (its name is ODD_NAME, and it has written to a private mapping of the file ODD_FILE).

Prints a line once all is in place, and ends with its standard input.
"""

import _thread
import mmap
import os
import signal
import sys
import time

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
_MADV_WIPEONFORK = 18
_HUGE = 2 << 20
_ADVICE = {
    "registered": mmap.MADV_MERGEABLE,
    "dontdump": mmap.MADV_DONTDUMP,
    "dontfork": mmap.MADV_DONTFORK,
    "wipeonfork": _MADV_WIPEONFORK,
}


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
    memory = mapping(len(texts) * mmap.PAGESIZE, options)
    for option, advice in _ADVICE.items():
        if option in options:
            memory.madvise(advice)
    if "locked" in options:
        c, ctypes = libc()
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if c.mlock(ctypes.c_void_p(start), ctypes.c_size_t(len(memory))):
            raise OSError(ctypes.get_errno(), "mlock")
    for number, text in enumerate(texts):
        memory[number * mmap.PAGESIZE : (number + 1) * mmap.PAGESIZE] = page(text, first + number)
    return memory


def mapping(size: int, options: list[str]) -> mmap.mmap:
    """Maps memory; huge memory holds one huge page, which is aligned."""
    if "memfd" in options:
        file = os.memfd_create("member")
        os.truncate(file, size)
        return mmap.mmap(file, size, mmap.MAP_SHARED)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if "huge" not in options:
        memory = mmap.mmap(-1, size, flags)
        # The contents must be on small pages, with no other pages around them.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        return memory
    memory = mmap.mmap(-1, size + _HUGE, flags)
    _, ctypes = libc()
    before = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _HUGE
    memory.madvise(mmap.MADV_HUGEPAGE, before, size)
    memory.madvise(mmap.MADV_NOHUGEPAGE, before + size, _HUGE - before)
    return memoryview(memory)[before : before + size]


def keep_changing(memories: list[mmap.mmap]) -> None:
    """Fills all pages with one content after the other."""
    number = 0
    while True:
        number += 1
        for memory in memories:
            memory[:] = page(f"now {number}", 0) * (len(memory) // mmap.PAGESIZE)
        time.sleep(0.1)


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


def become(user: int) -> None:
    """Changes all ids to those of a user."""
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def work(user: int, memories: list[mmap.mmap]) -> int:
    """Forks a worker, whose pages are its own; returns its id once it is in place."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.read(reader, 1)
        return child
    become(user)
    for memory in memories:
        memory[:] = bytes(memory)
    os.write(writer, b".")
    signal.pause()
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Sets up the memory that the arguments describe."""
    flags = {"undumpable", "fork", "clone", "leaderless", "odd"}.intersection(arguments)
    users = [int(one.removeprefix("user=")) for one in arguments if one.startswith("user=")]
    workers = [int(one.removeprefix("fork=")) for one in arguments if one.startswith("fork=")]
    specs = [one for one in arguments if one not in flags and "=" not in one]
    kept = [area(spec, number << 20) for number, spec in enumerate(specs)]
    volatile = [memory for memory, spec in zip(kept, specs) if "volatile" in spec]
    if volatile:
        _thread.start_new_thread(keep_changing, (volatile,))
    for user in users:
        become(user)
    children = [work(user, kept) for user in workers]
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
    for child in filter(None, (child, *children)):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    del kept


if __name__ == "__main__":
    main(sys.argv[1:])
