"""One virtual machine: Debian's kernel on this host's files, read-only, for the length of one command.

    python -m tests.vm.vm COMMAND…

QEMU emulates (a nested /dev/kvm may be there and only spin), so everything is 5 to 30 times slower than here: compare
ratios, never times. The kernel comes from tests/vm/fetch-kernel, and virtme-ng boots it.
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("SHRINKD_TEST_VM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shrinkd-vm")
_OFTEN_READ = (sys.prefix, sysconfig.get_path("stdlib"))
"""The thousands of small files that an import looks for: by 9p they are four fifths of the time of a run."""
_PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_PROGRAMS = {
    "vng": "pip install virtme-ng",
    "qemu-system-x86_64": "apt-get install qemu-system-x86",
    "busybox": "apt-get install busybox-static",
    "depmod": "apt-get install kmod",
    "ip": "apt-get install iproute2",
    "mke2fs": "apt-get install e2fsprogs",
}
_MACHINE = (
    *("--disable-kvm", "--force-9p", "--disable-microvm", "--memory", "2G", "--cpus", "2"),
    *("--append", "cgroup_no_v1=all", "--verbose"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command. `status` is None when it did not come to its end, and then the console says why."""

    status: int | None
    output: str
    console: str


def absent() -> str | None:
    """Why no VM can be had here, as a sentence with the remedy, or None."""
    for program, remedy in _PROGRAMS.items():
        if not shutil.which(program, path=_PATH):
            return f"the VM needs {program}: {remedy}"
    if os.geteuid():
        return "the VM needs root, for it shows root's files to a guest that is root"
    return None if _kernel() else "the VM needs a kernel: tests/vm/fetch-kernel"


def run(command: list[str], *, seconds: float) -> Outcome:
    """Boot, run one command in the repository, as root, and power off. Waits its turn: there is one VM at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="shrinkd-vm-") as results:
        fcntl.flock(lock, fcntl.LOCK_EX)
        disks = {directory: _disk_of(directory, Path(results, f"disk{number}")) for number, directory in enumerate(_OFTEN_READ)}
        guest = ["env", f"SHRINKD_TEST_DISKS={' '.join(disks)}", "sh", "tests/vm/guest", *command]
        # Through files: the console has the kernel's messages among the lines.
        inner = f"{shlex.join(guest)} >{results}/output 2>&1; echo $? >{results}/status"
        console = _boot([*(f"--disk={disk}" for disk in disks.values()), f"--rwdir={results}", "--exec", inner], seconds, lock.fileno())
        status, output = Path(results, "status"), Path(results, "output")
        return Outcome(
            status=int(status.read_text()) if status.exists() else None,
            output=output.read_text(errors="replace") if output.exists() else "",
            console=console,
        )


def _disk_of(directory: str, disk: Path) -> Path:
    """Copy a directory into a disk of its own: the guest caches what it reads of that, and nothing of what it reads by 9p."""
    size = sum(file.lstat().st_size + 8192 for file in Path(directory).rglob("*"))
    made_of = ("-q", "-t", "ext4", "-O", "^has_journal", "-d", directory, str(disk))
    command = ["nice", "-n", "19", "mke2fs", *made_of, f"{(size >> 10) * 5 // 4 + 65536}k"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"PATH": _PATH})
    return disk


def _boot(options: list[str], seconds: float, lock: int) -> str:
    machine = subprocess.Popen(
        ["nice", "-n", "19", "vng", "--run", str(_kernel()), *_MACHINE, *options],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": _PATH, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,),  # should this process be killed, the VM goes on, and holds the lock
    )
    try:
        return machine.communicate(timeout=seconds)[0]
    except BaseException as error:
        os.killpg(machine.pid, signal.SIGKILL)  # QEMU is a grandchild, in the session that was made for it
        console = machine.communicate()[0]
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"{console}\nThe VM did not end within {seconds:.0f} seconds.\n"


def _kernel() -> Path | None:
    return max((CACHE / "boot").glob("vmlinuz-*"), default=None)


def main() -> int:
    if reason := absent():
        print(reason, file=sys.stderr)
        return 3
    outcome = run(sys.argv[1:], seconds=3600)
    print(outcome.output, end="")
    if outcome.status is None:
        print(outcome.console, file=sys.stderr)
    return 4 if outcome.status is None else outcome.status


if __name__ == "__main__":
    sys.exit(main())
