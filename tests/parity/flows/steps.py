"""Pull steps of the matrix."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import probe


def change_everything(directory: str) -> dict[str, str]:
    """Change whatever of the process a step can change and is passed on."""
    os.environ["PARITY_OF_STEP"] = "from the step"
    os.environ["PARITY_FROM_WORKER"] = "from the step"
    os.environ.pop("PARITY_UNWANTED", None)
    sys.path.append(f"{directory}/of-step")
    os.chdir(directory)
    # Sent to the output before everything else.
    print(probe.mark("printed by the step"), flush=True)  # noqa: T201 - that is what it is for
    return {"directory": directory}


def change_settings() -> None:
    """Change settings of Prefect for what comes then."""
    os.environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "9"
    os.environ["TZ"] = "Asia/Tokyo"


def change_process() -> None:
    """Change what the kernel keeps of a process, and hands on to the program that it becomes."""
    os.umask(0o027)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, most), most))


def fails() -> None:
    """Raise an exception."""
    raise ValueError("the step went wrong")


def exits(code: int) -> None:
    """End the process at once."""
    os._exit(code)


def leaves_others_behind() -> None:
    """Leave a thread and a process that go on."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"],
        env={**os.environ, "PARITY_ROLE": "of a step"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def waits() -> None:
    """Wait until told to go on."""
    probe.output(probe.this_run(), "preparing").write_text(str(os.getpid()))
    probe.wait_for("go")


def write_module(name: str, text: str) -> None:
    """Put a module beside the flow."""
    Path(name).write_text(text)
