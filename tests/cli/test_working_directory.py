"""The program runs and reads no file of the directory in which it is started.

The daemon is root, and the directory may belong to any user.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from shrinkd.simulation.jobs import SimulationJobs
from tests.simulation.test_run import SPIKES
from tests.support.checkout import ROOT
from tests.support.live_server import Daemon
from tests.support.polling import until

PACKAGE = SimulationJobs.__module__.partition(".")[0]
SOURCES = ROOT / "app" / PACKAGE
COMMAND = Path(sys.executable).with_name("shrinkd")
STANDARD = (
    "json",
    "logging",
    "typing_extensions",
    "sitecustomize",
    "usercustomize",
    "sqlite3",
    "uvicorn",
    "alembic",
    "dotenv",
)
STARTS_PROCESSES = (
    "subprocess",
    "multiprocessing",
    "concurrent.futures.process",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "pty",
)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory with a file of every name that Python, Alembic or shrinkd could look for.

    A file that is run leaves the file `ran`.
    """
    folder = tmp_path / "hostile"
    left = f"open({str(folder / 'ran')!r}, 'a').write(__name__ + ' ')\n"
    packages = (PACKAGE, "app", "shrinkd", "migrations", "httptools")
    for name in (
        *(f"{package}/{file}" for package in packages for file in ("__init__", "__main__", "env")),
        *STANDARD,
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(left)
    (folder / "alembic.ini").write_text(
        "[alembic]\nscript_location = migrations\nprepend_sys_path = .\n"
    )
    (folder / "pyproject.toml").write_text(
        '[tool.alembic]\nscript_location = "migrations"\nprepend_sys_path = ["."]\n'
    )
    (folder / ".env").write_text("SHRINKD_BACKEND=none\nSHRINKD_NO_SETTING=1\n")
    return folder


def environ(**settings: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SHRINKD_", "PYTHON"))
    }
    return kept | settings


@pytest.fixture(
    params=[(str(COMMAND),), (sys.executable, "-P", "-m", PACKAGE)],
    ids=["its command", "its module"],
)
def program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    words: tuple[str, ...] = request.param
    return words


@pytest.fixture
def started_there(hostile: Path, tmp_path: Path, program: tuple[str, ...]) -> Iterator[Daemon]:
    def begin(given: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        settings = {name: value for name, value in given.items() if name.startswith("SHRINKD_")}
        with log.open("ab") as lines:
            return subprocess.Popen(
                [*program, "serve"],
                cwd=hostile,
                env=environ(**settings),
                stdout=lines,
                stderr=lines,
                process_group=0,
            )

    with closing(Daemon(tmp_path, begin)) as daemon:
        yield daemon


def test_a_daemon_runs_and_reads_nothing_of_the_directory_that_it_is_started_in(
    started_there: Daemon, hostile: Path
) -> None:
    made = started_there.client.post(
        "/v1/simulations", json=SPIKES | {"duration_seconds": 5}
    ).json()
    done = until(
        lambda: (now := started_there.client.get(made["links"]["self"]).json())["done"] and now
    )
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert started_there.client.get("/v1/node").json()["backend"] == "simulator"


@pytest.mark.parametrize(
    "words",
    [
        ("version",),
        ("openapi",),
        ("db", "upgrade"),
        ("groups", "--url", "unix:/none"),
        ("token", "list"),
    ],
)
def test_no_command_runs_what_lies_in_the_working_directory(
    program: tuple[str, ...], words: tuple[str, ...], hostile: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokens").touch(0o600)
    settings = {
        "SHRINKD_DATABASE_URL": f"sqlite:///{tmp_path}/db",
        "SHRINKD_TOKENS": str(tmp_path / "tokens"),
    }
    done = subprocess.run(
        [*program, *words],
        cwd=hostile,
        env=environ(**settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert done.returncode == (75 if words[0] == "groups" else 0), done.stderr


def test_what_pythonpath_names_is_the_operators_own_and_is_found(tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "sitecustomize.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n"
    )
    subprocess.run(
        [COMMAND, "version"],
        cwd=tmp_path,
        env=environ(PYTHONPATH=str(tmp_path / "named")),
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "ran").exists()


def test_one_module_starts_processes_and_keeps_the_working_directory_off_their_path() -> None:
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if starts_processes(path.read_text())
    }
    assert found == {"simulation/jobs.py"}


def starts_processes(source: str) -> bool:
    nodes = list(ast.walk(ast.parse(source)))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    return any(
        name.startswith(STARTS_PROCESSES) or name.endswith("ProcessPoolExecutor")
        for name in imported | used
    )
