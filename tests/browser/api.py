"""Serves the REST interface with the FastAPI of the Python that runs this file: one of the WebUIs'.

    .venv-gradio3/bin/python tests/browser/api.py --packages .venv/lib/python3.11/site-packages --loras FOLDER

Prints the address when it is up.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", type=Path, required=True, help="where torch is; this Python's own packages win")
    parser.add_argument("--loras", type=Path, required=True)
    arguments = parser.parse_args()
    sys.path[1:1] = [str(ROOT)]
    sys.path.append(str(arguments.packages))
    import uvicorn
    from fastapi import FastAPI

    from lib_pm.webui.api import add_routes
    from lib_pm.workspace.workspace import Workspace

    app = FastAPI()
    with tempfile.TemporaryDirectory() as data, socket.socket() as listening:
        add_routes(app, Workspace(arguments.loras, Path(data), "cpu"), None)
        listening.bind(("127.0.0.1", 0))
        print("ready", f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listening])


if __name__ == "__main__":
    main()
