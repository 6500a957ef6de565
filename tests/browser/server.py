"""Serves what a line of its input asks for, with the gradio and FastAPI of the Python that runs this file: a WebUI's.

    .venv-gradio4/bin/python tests/browser/server.py --packages .venv/lib/python3.11/site-packages

`page FOLDER` is the tab in a bare page, `api FOLDER` the REST interface, both for the LoRAs of that folder. It answers
each line with the address, once it is up, and ends with its input.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", type=Path, required=True, help="where torch is; this Python's own packages win")
    arguments = parser.parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would ask the network
    sys.path[1:1] = [str(ROOT)]
    sys.path.append(str(arguments.packages))
    with tempfile.TemporaryDirectory() as data:
        for number, line in enumerate(sys.stdin):
            what, _, folder = line.rstrip("\n").partition(" ")
            serve = {"page": serve_page, "api": serve_api}[what]
            print("ready", serve(Path(folder), Path(data) / str(number)), flush=True)


def serve_page(folder: Path, data: Path) -> str:
    from tests.browser.page import launch

    return launch(folder, data)


def serve_api(folder: Path, data: Path) -> str:
    import uvicorn
    from fastapi import FastAPI

    from lib_pm.webui.api import add_routes
    from lib_pm.workspace.workspace import Workspace

    app = FastAPI()
    add_routes(app, Workspace(folder, data, "cpu"), None)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


if __name__ == "__main__":
    main()
