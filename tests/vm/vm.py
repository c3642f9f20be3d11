"""Run one command in a virtual machine with Debian's kernel on this host's files, read-only.

    python -m tests.vm.vm COMMAND…

QEMU emulates the CPU (a nested /dev/kvm may exist and only spin), so everything is 5 to 30 times
slower than here: compare ratios, never times. tests/vm/fetch-kernel gets the kernel; tests/vm/init
and tests/vm/guest run on it.
"""

import argparse
import fcntl
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = Path(
    os.environ.get("SHRINKD_TEST_VM_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shrinkd-vm"
)
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
    "curl": "curl",
}
"""What the host and the guest start, which are the same files, and the Debian package of each."""
_MODULES = ("9pnet_virtio", "9p", "overlay", "zram", "ext4")
_MACHINE = (
    *("-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "2G"),
    *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
)
_SECONDS = 4800


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a command.

    `status` is None when it did not end; the console says why.
    """

    status: int | None
    output: str
    console: str


def absent(path: str = _PATH) -> str | None:
    """Say why no VM can run here, with the remedy, or None. `path` is where programs are sought."""
    missing = [program for program in _PROGRAMS if not shutil.which(program, path=path)]
    if missing:
        packages = " ".join(_PROGRAMS[program] for program in missing)
        return f"the VM needs {', '.join(missing)}: apt-get install {packages}"
    if os.geteuid():
        return "the VM needs root, for it shows root's files to a guest that is root"
    return None if _kernel() else "the VM needs a kernel: tests/vm/fetch-kernel"


def run(command: list[str], shared: Path) -> Outcome:
    """Boot, run one command in the repository as root, and power off.

    The command can change only what is in `shared`. A lock keeps it to one VM at a time.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        (CACHE / "lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="shrinkd-vm-") as scratch,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        # the output goes through files, since the console has the kernel's messages in it
        inner = (
            f"cd {shlex.quote(str(REPOSITORY))}; sh tests/vm/guest {shlex.join(command)} "
            f">{shared}/output 2>&1; echo $? >{shared}/status"
        )
        (shared / "command").write_text(inner)
        console = _boot(_initrd(Path(scratch)), shared, lock.fileno())
    status, output = shared / "status", shared / "output"
    return Outcome(
        status=int(status.read_text()) if status.exists() else None,
        output=output.read_text(errors="replace") if output.exists() else "",
        console=console,
    )


def _initrd(scratch: Path) -> Path:
    """Make the initial file system: a shell, and the modules to mount the host's files."""
    kernel = str(_kernel()).partition("vmlinuz-")[2]
    wanted = ["modprobe", "-d", str(CACHE), "-S", kernel, "--show-depends", "-a", *_MODULES]
    listed = subprocess.run(
        wanted, env={"PATH": _PATH}, check=True, capture_output=True, text=True
    ).stdout
    modules = dict.fromkeys(
        line.split()[1] for line in listed.splitlines() if line.startswith("insmod ")
    )
    root = scratch / "root"
    (root / "modules").mkdir(parents=True)
    for number, module in enumerate(modules):
        (root / "modules" / f"{number:02}").write_bytes(lzma.decompress(Path(module).read_bytes()))
    shutil.copy(shutil.which("busybox", path=_PATH) or "busybox", root / "busybox")
    shutil.copy(REPOSITORY / "tests/vm/init", root / "init")
    with (scratch / "initrd").open("wb") as initrd:
        subprocess.run(
            "find . | busybox cpio -o -H newc",
            shell=True,
            cwd=root,
            stdout=initrd,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return scratch / "initrd"


def _boot(initrd: Path, shared: Path, lock: int) -> str:
    kernel_line = (
        "console=ttyS0 panic=-1 cgroup_no_v1=all quiet loglevel=4 "
        f"repository={REPOSITORY} shared={shared}"
    )
    machine = subprocess.Popen(
        [
            *("nice", "-n", "19", "qemu-system-x86_64", *_MACHINE),
            *("-kernel", str(_kernel()), "-initrd", str(initrd), "-append", kernel_line),
            *(
                "-virtfs",
                "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            ),
            *("-virtfs", f"local,path={shared},mount_tag=shared,security_model=none"),
        ],
        env={"PATH": _PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,),  # if this process is killed, the VM goes on and holds the lock
    )
    try:
        return machine.communicate(timeout=_SECONDS)[0]
    except BaseException as error:
        machine.kill()
        console = machine.communicate()[0]
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"{console}\nThe VM did not end within {_SECONDS} seconds.\n"


def _kernel() -> Path | None:
    return max((CACHE / "boot").glob("vmlinuz-*"), default=None)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(5)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command in the VM.")
    parser.add_argument(
        "--shared",
        type=Path,
        help="the one directory that the command can change (default: none is kept)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if reason := absent():
        print(reason, file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="shrinkd-vm-") as folder:
        outcome = run(arguments.command, arguments.shared or Path(folder))
    print(outcome.output, end="")
    if outcome.status is None:
        print(outcome.console, file=sys.stderr)
    return 4 if outcome.status is None else outcome.status


if __name__ == "__main__":
    sys.exit(main())
