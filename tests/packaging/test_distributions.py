"""The wheels of shrinkd and shrinkd-client, installed into fresh environments.

Every command runs in a directory that has an `app` and a `migrations` of its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulation.test_run import SPIKES
from tests.support.checkout import ROOT
from tests.support.live_server import Daemon

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SERVER_PACKAGES = {"alembic", "fastapi", "httptools", "prometheus_client", "sqlalchemy", "uvicorn"}
UNREACHABLE = re.compile(
    "NewConnectionError|ConnectTimeout|ConnectionRefused|Temporary failure in name resolution"
    "|Network is unreachable|ProxyError"
)


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment without pip, and the directory in which its commands run."""

    bin: Path
    folder: Path

    def run(self, *words: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command of the environment; its first word is a file in `bin`."""
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environ(),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def stdout(self, *words: str, given: str = "") -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self.run(*words, given=given)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def environ() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SHRINKD_", "PYTHON"))
    }


def pip(*words: str) -> None:
    """Run pip; skip where it cannot reach the package registry."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries=1", *words],
        cwd=ROOT,
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("pip cannot reach the package registry")
    assert done.returncode == 0, done.stdout + done.stderr


def environment(folder: Path, *requirements: Path) -> Environment:
    """Make an environment of hashed requirements."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    made = Environment(folder / "venv" / "bin", folder / "elsewhere")
    for taken in ("app", "migrations"):
        (made.folder / taken).mkdir(parents=True)
        (made.folder / taken / "__init__.py").write_text("raise SystemExit('not this one')\n")
    files = [word for each in requirements for word in ("-r", str(each))]
    pip("--python", str(made.bin / "python"), "install", "--quiet", "--require-hashes", *files)
    return made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of both distributions."""
    folder = tmp_path_factory.mktemp("build")
    builder = environment(folder, ROOT / "requirements-build.lock")
    given = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"))
    python = str(builder.bin / "python")
    pip("--python", python, "wheel", "--quiet", *given, ".", "./packaging/client")
    return folder / "dist"


def installed(folder: Path, lock: Path, wheel: Path) -> Environment:
    """Make an environment with one wheel and its locked requirements, which have to suffice."""
    made = environment(folder, lock)
    python = str(made.bin / "python")
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    pip("--python", python, "check")
    return made


@pytest.fixture(scope="module")
def server(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    (wheel,) = wheels.glob("shrinkd-*.whl")
    return installed(tmp_path_factory.mktemp("server"), ROOT / "requirements.lock", wheel)


@pytest.fixture(scope="module")
def client(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    (wheel,) = wheels.glob("shrinkd_client-*.whl")
    lock = ROOT / "packaging" / "client" / "requirements.lock"
    return installed(tmp_path_factory.mktemp("client"), lock, wheel)


@pytest.fixture
def daemon(server: Environment, tmp_path: Path) -> Iterator[Daemon]:
    def begin(given: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        settings = {name: value for name, value in given.items() if name.startswith("SHRINKD_")}
        with log.open("ab") as lines:
            return subprocess.Popen(
                [server.bin / "shrinkd", "serve"],
                cwd=server.folder,
                env=environ() | settings,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                process_group=0,
            )

    with closing(Daemon(tmp_path, begin, scenario="siblings")) as started:
        yield started


def test_an_installed_daemon_serves_its_pages_from_its_own_migrations_and_gallery(
    daemon: Daemon,
) -> None:
    assert daemon.client.get("/v1/node").json()["backend"] == "simulator"
    assert daemon.client.get("/readyz").is_success
    page = daemon.client.get("/docs")
    assert page.is_success
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert daemon.client.get(address).is_success, address
    assert daemon.client.get("/v1/groups").json()["items"]
    made = daemon.client.post("/v1/groups", json={"path": "installed"})
    assert made.status_code == 201, made.text


def test_an_installed_program_simulates_a_plan(server: Environment) -> None:
    plan = json.dumps(SPIKES | {"duration_seconds": 5})
    lines = server.stdout("shrinkd", "simulate", given=plan).splitlines()
    assert "report" in json.loads(lines[-1])


@pytest.mark.parametrize("distribution", ["server", "client"])
def test_the_client_and_its_types_are_in_both_distributions(
    distribution: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    installed: Environment = request.getfixturevalue(distribution)
    installed.stdout("python", "-c", "from shrinkd.client import AsyncClient, Client")
    (tmp_path / "use.py").write_text(
        "from shrinkd.client import Client\nlimits: int = Client().limits('web')\n"
    )
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--no-incremental", "--strict", "--config-file="),
            *("--python-executable", str(installed.bin / "python"), str(tmp_path / "use.py")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "'max_bytes': int | None" in checked.stdout, checked.stdout + checked.stderr


def test_the_client_alone_has_no_dependency_of_the_server(client: Environment) -> None:
    told = (
        "import importlib.util, sys; "
        "print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    )
    assert client.stdout("python", "-c", told, *sorted(SERVER_PACKAGES)).split() == []


def test_every_module_of_the_client_alone_can_be_imported(client: Environment) -> None:
    told = (
        "import importlib, pkgutil, shrinkd\n"
        "for module in pkgutil.walk_packages(shrinkd.__path__, 'shrinkd.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "    print(module.name)\n"
    )
    assert "shrinkd.client.types" in client.stdout("python", "-c", told).split()


def test_the_command_line_of_the_client_alone_works_on_a_daemon(
    client: Environment, daemon: Daemon
) -> None:
    where = ("--url", f"unix:{daemon.socket}")
    node = json.loads(client.stdout("shrinkd", "node", "--json", *where))
    assert node["backend"] == "simulator"
    largest = daemon.client.get("/v1/groups", params={"order_by": "-usage_bytes"}).json()["items"]
    path = largest[0]["path"]
    client.stdout("shrinkd", "limit", path, "--high", "max", *where)
    shrunk = client.stdout("shrinkd", "shrink", path, "--by", "4K", *where)
    assert f"{path} uses " in shrunk
    assert (
        client.stdout("shrinkd", "version").strip()
        == daemon.client.get("/version").json()["version"]
    )


@pytest.mark.parametrize(
    "words",
    [("serve",), ("db", "upgrade"), ("token", "list"), ("openapi",), ("simulate",)],
    ids=" ".join,
)
def test_a_command_of_the_daemon_names_the_package_that_it_needs(
    client: Environment, words: tuple[str, ...]
) -> None:
    done = client.run("shrinkd", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("shrinkd: This command needs the package shrinkd")
    assert done.stderr.count("\n") == 1
