"""Starts Streamlit's server for the page, on this machine only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from planner.errors import InputError

HOST = "127.0.0.1"
_OPTIONS = {
    "server.address": HOST,
    "server.maxUploadSize": "5",
    "server.showEmailPrompt": "false",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showSidebarNavigation": "false",
    "runner.magicEnabled": "false",
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
    "client.toolbarMode": "minimal",
}


def command(port: int) -> list[str]:
    """The command line of the server."""
    page = Path(__file__).with_name("main.py")
    options = [f"--{name}={value}" for name, value in {**_OPTIONS, "server.port": str(port)}.items()]
    return [sys.executable, "-m", "streamlit", "run", str(page), *options]


def run(port: int) -> int:
    """Serve until interrupted. InputError where the port is not free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}); pass another with --port") from None
    if os.name == "posix":  # one process, which a signal to it ends
        os.execv(sys.executable, command(port))
    return subprocess.run(command(port), check=False).returncode
