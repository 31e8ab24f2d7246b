# SPDX-License-Identifier: GPL-2.0
"""The program of each of the demo's Python interpreters.

Imports a good part of the standard library. Each line of its standard input is
an expression; prints its value as a line.
"""

import argparse
import asyncio
import csv
import ctypes
import decimal
import email.message
import email.parser
import hashlib
import http.client
import http.server
import json
import logging.handlers
import multiprocessing
import sqlite3
import ssl
import subprocess
import sys
import tarfile
import types
import unittest
import urllib.request
import xml.dom.minidom
import xml.etree.ElementTree
import xmlrpc.client
import zipfile


def place_of(code: types.CodeType) -> tuple[str, int, str]:
    """The file, line and name of some code."""
    return code.co_filename, code.co_firstlineno, code.co_qualname


def code_of(module: types.ModuleType) -> list[types.CodeType]:
    """The code of a module's functions and methods, sorted by name."""
    things = list(vars(module).values())
    classes = [thing for thing in things if isinstance(thing, type)]
    things += [part for one in classes for part in vars(one).values()]
    functions = [thing for thing in things if isinstance(thing, types.FunctionType)]
    return sorted({function.__code__ for function in functions}, key=place_of)


def fingerprint() -> str:
    """A checksum of the imported names, code and strings."""
    digest = hashlib.blake2b(digest_size=8)
    for name, module in sorted(sys.modules.copy().items()):
        digest.update(name.encode())
        for code in code_of(module):
            digest.update(repr((code.co_qualname, code.co_names, code.co_varnames)).encode())
            digest.update(code.co_code)
    return digest.hexdigest()


def query(expression: str) -> object:
    """Computes something with SQLite."""
    with sqlite3.connect(":memory:") as database:
        return database.execute(f"SELECT {expression}").fetchone()[0]


def main() -> None:
    """Answers until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(eval(line), flush=True)


if __name__ == "__main__":
    main()
