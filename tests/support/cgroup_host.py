"""Run tests on a real kernel, with either version of cgroupfs.

The groups of the tests are named shrinkd-test-<pid>-<n>, directly below the mount or inside each
other.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from shrinkd.backends import Backend, Group
from tests.backends.hosts import MIB

SomeBackend = TypeVar("SomeBackend", bound=Backend)
_PREFIX = "shrinkd-test-"
_WORKER = """
import mmap, os, random, sys, time
kept, buffer, parent = [], memoryview(bytearray(1 << 20)), os.getppid()
print("ready", flush=True)
for line in sys.stdin:
    verb, size, path = line.split()
    size = int(size)
    if verb == "read" or verb == "readahead":
        file = os.open(path, os.O_RDONLY)
        advice = os.POSIX_FADV_RANDOM if verb == "read" else os.POSIX_FADV_SEQUENTIAL
        os.posix_fadvise(file, 0, 0, advice)
        for offset in range(0, size, len(buffer)):
            os.preadv(file, [buffer[:size - offset]], offset)
            if os.getppid() != parent:
                sys.exit()
        os.close(file)
    elif verb == "drop":
        for memory in kept[-size:]:
            memory.close()
        del kept[-size:]
    elif size:
        file = os.open(path, os.O_RDWR) if verb == "share" else -1
        flags = mmap.MAP_SHARED if verb == "share" else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        kept.append(mmap.mmap(file, size, flags | (0x2000 if verb == "lock" else 0)))  # MAP_LOCKED
        for offset in range(0, size, mmap.PAGESIZE):
            kept[-1][offset] = 1
            if verb == "spurt" and random.random() < 1 / 128:
                time.sleep(random.random() / 64)
    print("done", flush=True)
"""

_READ_ONLY = """
import sys
from shrinkd.backends.protocol import load
from shrinkd.errors import NotWritable
from shrinkd.settings import Settings
backend = load(sys.argv[2])(Settings(cgroup_root=sys.argv[1]))
group = backend.groups()[0]
assert backend.usage(group) >= 0
assert not backend.has_swappiness
for verb in (
    lambda: backend.set_limits(group, {"max_bytes": 1 << 30}),
    lambda: backend.set_limits(group, {"max_bytes": 1 << 30}, dry_run=True),
    lambda: backend.make("child"),
    lambda: backend.make("child", dry_run=True),
    lambda: backend.reclaim(group, 1 << 20),
):
    try:
        verb()
    except NotWritable:
        continue
    raise SystemExit("it was written")
"""


class CgroupWorker:
    """A child process in a group, which uses memory on request.

    It is moved into the group before it allocates anything, and ends with its stdin if the tests
    die.
    """

    def __init__(self, *procs: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-ISc", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._procs = procs
        self._files = ExitStack()
        self.pid = self._child.pid
        self._answer()
        for file in procs:
            file.write_text(str(self.pid))

    def grow(self, size: int) -> bool:
        return self._ask("grow", size)

    def keep_growing(self, size: int, *, in_spurts: bool) -> None:
        """Start to grow by `size` bytes, without pauses or with random ones of up to 16 ms.

        The process is paused first; resume() lets it begin.
        """
        self.pause()
        self._tell("spurt" if in_spurts else "grow", size)

    def keep_reading(self, size: int) -> None:
        """Start to read `size` bytes of page cache; otherwise like keep_growing()."""
        self.pause()
        self._tell("read", size, self._lend(_file_of_holes(), size))

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def pause(self) -> bool:
        """Stop the process with SIGSTOP; return False if it has ended."""
        os.kill(self.pid, signal.SIGSTOP)
        ended = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return ended is not None and ended.si_code == os.CLD_STOPPED

    def lock(self, size: int) -> bool:
        return self._ask("lock", size)

    def begin_to_lock(self, size: int) -> None:
        """Start lock() without waiting for it. Only stop() may follow."""
        self._tell("lock", size)

    def share(self, size: int) -> bool:
        return self._ask("share", size, self._lend(os.memfd_create("shrinkd-test"), size))

    def read_file(self, size: int, *, large_folios: bool = False) -> None:
        """Read a sparse file, to charge page cache without a disk or a dirty page."""
        self._ask("readahead" if large_folios else "read", size, self._lend(_file_of_holes(), size))

    def drop(self, pieces: int) -> bool:
        """Free the last `pieces` that were grown, locked or shared."""
        return self._ask("drop", pieces)

    def drop_files(self) -> None:
        """Close the files, which frees what is still charged for them."""
        self._files.close()

    def alive(self) -> bool:
        return self._child.poll() is None

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        with suppress(OSError):  # a test may have removed the group before
            while any(str(self.pid) in file.read_text().split() for file in self._procs):
                time.sleep(0.001)

    def forget(self) -> None:
        """Stop the process, and close the files with their page cache."""
        self.stop()
        self.drop_files()

    def _lend(self, file: int, size: int) -> str:
        """Return a path by which the child opens a file that has no name.

        The file stays open here, since closing it would free its pages.
        """
        self._files.callback(os.close, file)
        os.ftruncate(file, size)
        return f"/proc/{os.getpid()}/fd/{file}"

    def _ask(self, verb: str, size: int, path: str = "-") -> bool:
        self._tell(verb, size, path)
        return self._answer()

    def _tell(self, verb: str, size: int, path: str = "-") -> None:
        with suppress(BrokenPipeError):
            print(verb, size, path, file=self._child.stdin, flush=True)

    def _answer(self) -> bool:
        if self._child.stdout and self._child.stdout.readline():
            return True
        self._child.wait()
        return False


def dig(top: Path, levels: int, name: str = "d" * 250, file: str = "", text: str = "") -> int:
    """Make nested directories, and write `text` to the file `file` of each but the last.

    Returns the length of the path. The kernel resolves no path of more than 4095 bytes, but it can
    be walked step by step.
    """
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        if file:
            control = os.open(file, os.O_WRONLY, dir_fd=here)
            os.write(control, text.encode())
            os.close(control)
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here), here
        os.close(above)
    os.close(here)
    return levels * (len(name) + 1)


def swap_device() -> str | None:
    """Return the swap that was made for tests: only the VM sets SHRINKD_TEST_SWAP."""
    return os.environ.get("SHRINKD_TEST_SWAP")


@contextmanager
def swap_for_tests() -> Iterator[bool]:
    """Turn on the swap that was made for tests, and yield whether there is any."""
    if not (device := swap_device()):
        yield False
        return
    subprocess.run(["/sbin/swapon", device], check=True)
    try:
        yield True
    finally:
        subprocess.run(["/sbin/swapoff", device], check=True)


def _file_of_holes() -> int:
    return os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


class CgroupHost(Generic[SomeBackend]):
    """A Host with a real kernel; see Host.

    `charge` can also fill a group with large folios, which reclaim frees 35 times as fast. `twins`
    is the hierarchy in which groups of the same paths report pressure and activity, if not the root
    itself.
    """

    slack_bytes = 2 * MIB

    def __init__(
        self, backend: SomeBackend, root: Path, limit_file: str, twins: Path | None = None
    ) -> None:
        self.backend = backend
        self._root = root
        self._limit_file = limit_file
        self._mirror = twins
        self._numbers = itertools.count()
        self._workers: list[CgroupWorker] = []
        self._tops: list[Path] = []

    def group(self, parent: Group | None = None) -> Group:
        name = f"{_PREFIX}{os.getpid()}-{next(self._numbers)}"
        if parent:
            return self.backend.make(f"{parent.path}/{name}")
        self._tops.append(self._root / name)
        return self.backend.make(name)

    def twinned_group(self, parent: Group | None = None) -> Group:
        group = self.group(parent)
        if self._mirror:
            self._tops.append(self._mirror / group.path)
            self._tops[-1].mkdir()
        return group

    def charge(
        self,
        group: Group,
        *,
        anon: int = 0,
        cache: int = 0,
        locked: int = 0,
        large_folios: bool = False,
    ) -> CgroupWorker:
        twin = self._mirror / group.path if self._mirror else None
        homes = [self._root / group.path, *([twin] if twin and twin.exists() else [])]
        worker = CgroupWorker(*(home / "cgroup.procs" for home in homes))
        self._workers.append(worker)
        worker.grow(anon)
        worker.lock(locked)
        worker.read_file(cache, large_folios=large_folios)
        return worker

    @contextmanager
    def swap(self) -> Iterator[None]:
        with swap_for_tests() as is_there:
            if not is_there:
                pytest.skip("no swap here that is made for tests (the VM has some)")
            assert self.backend.node().swap_free_bytes
            yield

    def limit(self, group: Group) -> str:
        """Read the limit from the kernel's own file."""
        return self._limit_of(group).read_text()

    def write_limit(self, group: Group, size: int) -> None:
        """Write the limit to the kernel's own file, without any check."""
        self._limit_of(group).write_bytes(b"%d" % size)

    def close(self) -> None:
        for worker in self._workers:
            worker.forget()
        for top in self._tops:
            _remove_tree(top)
        self.backend.close()

    def _limit_of(self, group: Group) -> Path:
        return self._root / group.path / self._limit_file


@contextmanager
def on(
    backend: SomeBackend, root: Path, limit_file: str, twins: Path | None = None
) -> Iterator[CgroupHost[SomeBackend]]:
    """Open a host on the mount of a backend's controller, for one test."""
    for mount in filter(None, (root, twins)):
        _sweep(mount)
    host = CgroupHost(backend, root, limit_file, twins)
    try:
        yield host
    finally:
        host.close()


def _sweep(root: Path) -> None:
    """Remove the groups of test runs that died. Their workers have ended with their pipes."""
    for top in root.glob(f"{_PREFIX}*-*"):
        pid = top.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            _remove_tree(top)


def _remove_tree(top: Path) -> None:
    """Remove groups from the leaves up, by descriptors, since their paths may be too long."""
    with suppress(FileNotFoundError):
        above = os.open(top.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            remove_below(above, top.name)
        finally:
            os.close(above)


def remove_below(above: int, name: str) -> None:
    """Remove a directory and those in it.

    A process that has just ended may keep one busy for a moment.
    """
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    try:
        with os.scandir(directory) as entries:
            inside = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for child in inside:
            with suppress(FileNotFoundError):
                remove_below(directory, child)
    finally:
        os.close(directory)
    for _ in range(200):
        try:
            os.rmdir(name, dir_fd=above)
        except FileNotFoundError:
            break
        except OSError:
            time.sleep(0.005)


def assert_only_read_when_mounted_read_only(backend: str, root: str) -> None:
    """Call every verb on a read-only group, in a separate mount namespace."""
    mounted = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3" "$1" "$4"'
    )
    subprocess.run(
        ["unshare", "-m", "sh", "-ec", mounted, "sh", root, sys.executable, _READ_ONLY, backend],
        check=True,
        cwd=Path.cwd(),
    )


def descriptors_and_timers() -> tuple[int, int]:
    """Count the open files and the POSIX timers of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), Path("/proc/self/timers").read_text().count(
        "ID:"
    )
