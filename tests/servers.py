"""MLflow servers, databases and bad networks for the tests."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, seconds: float = 120.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.05)


class MlflowServer:
    """An `mlflow server` of the tests' own, to be started, killed and started again.

    Args:
        store: its backend store.
        folder: where it keeps files.
    """

    def __init__(self, store: str, folder: Path):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._process = folder, None
        self._command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--backend-store-uri", store]
        self._command += ["--artifacts-destination", str(folder / "artifacts")]

    def start(self) -> None:
        """Starts the server, if it does not run, and waits until it answers."""
        if self._process is not None:
            return
        with open(self._folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,  # the project's folder mlflow/ is not the package
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        wait_until(self._is_healthy)

    def kill(self) -> None:
        """Kills the server and its workers, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _is_healthy(self) -> bool:
        assert self._process.poll() is None, "the server ended"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
            return True
        return False


class Proxy:
    """A TCP proxy before a server, which tests may tell to be bad.

    Attributes:
        delay: seconds that each answer is held back.
        on_request: None, or what is asked with each request: "pass", "drop" (the
            server gets it, the client no answer) or "hold" (the server gets it when
            `release` is called, the client no answer).
    """

    def __init__(self, port: int):
        self.delay, self.on_request = 0.0, None
        self._port, self._held = port, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Sends the server what was held, and waits for its answers."""
        for request in self._held:
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                server.sendall(request)
                server.recv(65536)
        self._held = []

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            server = socket.create_connection(("127.0.0.1", self._port))
            with server:
                threading.Thread(
                    target=self._answer, args=[server, client], daemon=True
                ).start()
                while request := _read_request(client):
                    what = self.on_request(request) if self.on_request else "pass"
                    if what == "hold":
                        self._held.append(request)
                        return
                    if what == "drop":
                        client.shutdown(socket.SHUT_WR)
                    server.sendall(request)
                    if what == "drop":
                        time.sleep(1)  # for the server to do what it was asked
                        return

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                time.sleep(self.delay)
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


def _read_request(client: socket.socket) -> bytes:
    """A whole HTTP request, or nothing at the end of the connection."""
    request, size = b"", 1
    while len(request) < size:
        data = client.recv(1 << 20)
        if not data:
            return b""
        request += data
        head, end, _ = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        size = len(head) + 4 + int(length[1] if length else 0)
        if not end:
            size = len(request) + 1  # there is more of the head
    return request


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, as Debian installs them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """A PostgreSQL of the tests' own, under the user postgres if tests run as root."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.uri = f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/postgres"
        self._folder = folder
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())[0]
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-U", "mlflow", "--auth=trust", "-D", str(folder / "data"))

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._control("start", "-w", "-o", options, "-l", str(self._folder / "log"))

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [find_postgres() / program, *arguments],
            user=self._user if os.geteuid() == 0 else None,
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
