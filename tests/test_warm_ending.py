"""How the process of a warm flow run ends: what it still says and writes is what Python's own end would have it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from trioworker.infrastructure.process.warm.program import ending
from trioworker.infrastructure.process.warm.program.ending import status_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has warm starts"),
]

# The first imports are the template's, what follows is the flow's.
PROGRAM = """
import atexit, ctypes, gc, importlib.util, io, json, sys, threading, time, types, weakref
spec = importlib.util.spec_from_file_location("ending", sys.argv[1])
ending = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ending)
template = dict(sys.modules)
flow = types.ModuleType("flow")
sys.modules["flow"] = flow
exec(compile(sys.stdin.read(), "flow.py", "exec"), vars(flow))
del flow
if sys.argv[2] == "ours":
    ending.end(3, template)
    print("left to Python")
sys.exit(3)
"""

SAYING = """
class Saying:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        print(self.text, "is gone")
"""


def run(tmp_path: Path, how: str, code: str) -> tuple[int, str, str]:
    directory = tmp_path / how
    directory.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ending.__file__), how],
        input=SAYING + dedent(code),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    files = "".join(f"{file.name}: {file.read_text()}\n" for file in sorted(directory.iterdir()))
    return ended.returncode, ended.stdout + files, re.sub(r"0x[0-9a-f]+", "ADDRESS", ended.stderr)


CASES = {
    "nothing": "",
    "a line that is not written yet": "print('a line', end='')",
    "a line of a library in C": "import ctypes\nctypes.CDLL(None).puts(b'a line of C')",
    "an object of the flow": "here = Saying('the object')",
    "objects that know of each other": """
        one, other = Saying("one"), Saying("the other")
        one.other, other.one = other, one
    """,
    "a file that nobody has closed": "file = open('file', 'w')\nfile.write('text')",
    "a file that another module has": "import json\njson.kept = open('file', 'w')\njson.kept.write('text')",
    "bytes that another module has": "import json\njson.kept = open('file', 'wb')\njson.kept.write(b'text')",
    "a thread that goes on": """
        import threading, time
        def work():
            time.sleep(0.2)
            print("the thread is ready")
        threading.Thread(target=work).start()
        import atexit, os
        def last_words():
            # The system has a thread a little longer than Python, which would be one of a library.
            while len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.001)
            print("the last words")
        atexit.register(last_words)
    """,
    "last words that fail": """
        import atexit
        atexit.register(print, "the first registered")
        atexit.register(lambda: 1 / 0)
    """,
    "a thread of a library that nobody waits for": """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        here = Saying("the object")
    """,
    "a standard output that was closed": "import sys\nprint('a line')\nsys.stdout.close()",
    "no standard output": "import sys\nprint('a line', flush=True)\nsys.stdout = None",
    "a standard output that fails": """
        import io, sys
        class Failing(io.StringIO):
            def flush(self):
                raise OSError("no space")
        sys.stdout = Failing()
    """,
    "a reference to what is gone": """
        import weakref
        class Thing: pass
        thing = Thing()
        reference = weakref.proxy(thing)
        del thing
    """,
    "a module that is imported when it is used": """
        import importlib.util, pathlib, sys
        pathlib.Path("lazy.py").write_text("print('imported')\\n1 / 0")
        spec = importlib.util.spec_from_file_location("lazy", "lazy.py")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sys.modules["lazy"] = lazy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lazy)
    """,
    "a file that cannot be written any more": """
        import io, sys
        # From Python 3.13 on it is said; ours has heard it already.
        sys.unraisablehook = lambda _: None
        class Raw(io.RawIOBase):
            def writable(self):
                return True
            def write(self, data):
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        file = io.TextIOWrapper(io.BufferedWriter(Raw()))
        file.write("text")
    """,
    "a name that is no text": "globals()[3] = Saying('the object')",
    "a class that a module of the template has taken note of": """
        from typing import Optional
        class Options:
            def method(self):
                return here
        wanted = Optional[Options]
        here = Saying("the object")
    """,
    "a standard output of its own": """
        import gzip, io, sys
        class Out(io.TextIOBase):
            def write(self, text):
                return sys.__stdout__.write("written: " + text)
            def __del__(self):
                open("out", "w").write("closed")
        sys.stdout = Out()
        print("a line")
    """,
    "a standard output that refers to its module": """
        import sys
        prefix = "written: "
        class Out:
            def write(self, text):
                return sys.__stdout__.write(prefix + text)
            def flush(self):
                sys.__stdout__.write(prefix.upper())
        sys.stdout = Out()
        print("a line")
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_everything_is_as_at_the_end_that_python_makes(tmp_path: Path, case: str) -> None:
    code, output, errors = run(tmp_path, "ours", CASES[case])
    theirs = run(tmp_path, "python", CASES[case])
    assert (code, output, errors) == theirs
    assert code in {3, 120}


THREADS = {
    "that sleeps": "while True: begun.set(); time.sleep(0.01)",
    "that computes": "while True: begun.set(); sum(range(1000))",
    "with a coroutine that waits": "asyncio.run(wait())",
    "with a callback that waits": "loop.call_later(60, print_late); loop.call_soon(begun.set); loop.run_forever()",
}


@pytest.mark.parametrize("thread", THREADS)
def test_threads_with_the_flows_own_code_leave_the_end_to_python(tmp_path: Path, thread: str) -> None:
    code = f"""
        import asyncio, threading, time
        begun = threading.Event()
        def print_late():
            print("late")
        async def wait():
            begun.set()
            while True:
                await asyncio.sleep(0.01)
        loop = asyncio.new_event_loop()
        def work():
            {THREADS[thread]}
        threading.Thread(target=work, daemon=True).start()
        begun.wait()
    """
    assert run(tmp_path, "ours", code)[:2] == (3, "left to Python\n")


@pytest.mark.parametrize(
    "start",
    [
        "threading.Timer(60, print_late)",
        "threading.Thread(target=asyncio.run, args=(wait(),))",
        "threading.Thread(target=functools.partial(asyncio.run, wait()))",
    ],
)
def test_threads_that_will_come_to_the_flows_own_code_leave_the_end_to_python(
    tmp_path: Path, start: str
) -> None:
    code = f"""
        import asyncio, functools, threading
        begun = threading.Event()
        def print_late():
            print("late")
        async def wait():
            begun.set()
            await asyncio.sleep(60)
        thread = {start}
        thread.daemon = True
        thread.start()
        if "wait" in {start!r}:
            begun.wait()
    """
    assert run(tmp_path, "ours", code)[:2] == (3, "left to Python\n")


def test_threads_of_a_library_leave_the_end_to_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A pool of threads that none of Python's functions knows: what a C library starts, clone() starts.
    code = """
        import ctypes
        library = ctypes.CDLL(None)
        thread = ctypes.c_ulong()
        library.pthread_create(ctypes.byref(thread), None, library.pause, None)
    """
    assert run(tmp_path, "ours", code) == (3, "left to Python\n", "")


@pytest.mark.parametrize(
    ("code", "status"), [(None, 0), (0, 0), (7, 7), (-1, -1), (True, 1), ("a text", None), (2**40, None)]
)
def test_status_is_what_somebody_has_asked_for(code: object, status: int | None) -> None:
    assert status_of(SystemExit(code)) == status
