"""Every error of shrinkd: an errno with a sentence for people and members for programs.

    ShrinkdError
    ├── InvalidRequest        EINVAL      a value that this daemon refuses
    │   ├── InvalidGroupName
    │   └── RangeTooLarge     ERANGE
    ├── MalformedBody         EBADMSG     a body that is not JSON
    ├── BodyTooLarge          EMSGSIZE
    ├── UnsupportedMedia      EPROTONOSUPPORT
    ├── NotFound              ENOENT
    │   ├── GroupNotFound
    │   ├── ShrinkNotFound
    │   ├── SimulationNotFound
    │   ├── PolicyNotFound
    │   ├── ProblemNotFound
    │   ├── NotSimulator      ENXIO       what only a simulator has
    │   └── ProcessNotFound   ESRCH
    ├── GroupGone             ENODEV      this incarnation was removed; the path may live again
    ├── GroupExists           EEXIST
    ├── PolicyExists          EEXIST
    ├── PolicyConflict        EEXIST      another one of its kind has these groups, at its priority
    ├── PolicyUnreadable      EBADMSG     another version of this daemon wrote it
    ├── GroupNotEmpty         ENOTEMPTY
    ├── GroupNotManaged       EPERM
    ├── ProtectedGroup        EPERM       the daemon itself is in it
    ├── Unauthenticated       ENOKEY      nobody knows who calls
    │   └── TokenRefused      EKEYREJECTED
    ├── Forbidden             EACCES      a scope is missing
    ├── AmbiguousReference    ENOTUNIQ
    ├── Busy                  EBUSY       the seed's answer
    │   ├── GroupBusy
    │   ├── LimitBelowUsage
    │   ├── ShrinkStalled
    │   └── ShrinkInProgress
    ├── LimitOrder            EINVAL      two limits that contradict each other
    ├── Unsupported           EOPNOTSUPP  this kernel lacks it
    │   ├── UnsupportedLimit
    │   └── UnsupportedOption
    ├── Interrupted           EINTR
    │   └── DaemonStopped
    ├── TimedOut              ETIMEDOUT
    ├── ShrinkFinished        EALREADY
    ├── TooManyShrinks        EAGAIN
    ├── TooManySimulations    EAGAIN
    ├── TooManyRequests       EAGAIN
    ├── MisdirectedRequest    EHOSTUNREACH for a name that is not ours
    ├── CrossSiteRequest      EACCES      by a page from elsewhere
    ├── TooManyStreams        EAGAIN
    ├── EventsExpired         ENODATA     what came behind that id is not known any more
    ├── NotReady              EAGAIN
    ├── PreconditionFailed    ESTALE
    ├── KeyInUse              EINPROGRESS  the first request of this idempotency key still runs
    ├── KeyReused             EKEYREJECTED another request had this idempotency key
    ├── OutcomeUnknown        ENOTRECOVERABLE the daemon died in the first request of this key
    ├── StoreUnavailable      EIO
    ├── InternalError         EIO         a fault of this daemon
    ├── KernelRefused         EIO         an errno that no row of the table below expects
    ├── OutOfResources        ENOMEM      open files, memory: nothing is known of what was asked for
    ├── NotWritable           EROFS
    ├── BackendUnavailable    ENXIO       at start: exit code 3
    └── SettingsError         EINVAL      at start: exit code 2

An error changes its language twice and nowhere else: `map_oserror` on the way in (the kernel's
errno becomes a class), `app/shrinkd/api/http/problems.py` on the way out (the class becomes a
status). Whoever reads many groups asks `classify_failure` what an error says about the one that it met.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import ClassVar

_SYMBOLS = dict(errno.errorcode) | {
    errno.EOPNOTSUPP: "EOPNOTSUPP"
}  # 95 has two names; this is the kernel's


class ShrinkdError(Exception):
    """One sentence that says what is wrong and what to do, and the numbers in it as members."""

    errno: ClassVar[int]

    def __init__(self, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    @property
    def errname(self) -> str:
        """The errno's symbol, such as "EBUSY"; a member may name the kernel's own."""
        return str(self.members.get("errno") or _SYMBOLS[self.errno])


class InvalidRequest(ShrinkdError):
    errno = errno.EINVAL


class InvalidGroupName(InvalidRequest):
    pass


class RangeTooLarge(InvalidRequest):
    errno = errno.ERANGE


class MalformedBody(ShrinkdError):
    errno = errno.EBADMSG


class BodyTooLarge(ShrinkdError):
    errno = errno.EMSGSIZE


class UnsupportedMedia(ShrinkdError):
    errno = errno.EPROTONOSUPPORT


class NotFound(ShrinkdError):
    errno = errno.ENOENT


class GroupNotFound(NotFound):
    pass


class ShrinkNotFound(NotFound):
    pass


class SimulationNotFound(NotFound):
    pass


class PolicyNotFound(NotFound):
    pass


class ProblemNotFound(NotFound):
    pass


class NotSimulator(NotFound):
    errno = errno.ENXIO


class ProcessNotFound(NotFound):
    errno = errno.ESRCH


class GroupGone(ShrinkdError):
    errno = errno.ENODEV


class GroupExists(ShrinkdError):
    errno = errno.EEXIST


class PolicyExists(ShrinkdError):
    errno = errno.EEXIST


class PolicyConflict(ShrinkdError):
    errno = errno.EEXIST


class PolicyUnreadable(ShrinkdError):
    errno = errno.EBADMSG


class GroupNotEmpty(ShrinkdError):
    errno = errno.ENOTEMPTY


class GroupNotManaged(ShrinkdError):
    errno = errno.EPERM


class ProtectedGroup(ShrinkdError):
    errno = errno.EPERM


class Unauthenticated(ShrinkdError):
    errno = errno.ENOKEY


class TokenRefused(Unauthenticated):
    errno = errno.EKEYREJECTED


class Forbidden(ShrinkdError):
    errno = errno.EACCES


class AmbiguousReference(ShrinkdError):
    errno = errno.ENOTUNIQ


class Busy(ShrinkdError):
    errno = errno.EBUSY

    @property
    def room_bytes(self) -> int:
        """How far below a refused limit usage has to be: 1, unless the group grows too fast to be
        limited so closely.
        """
        return int(str(self.members.get("room_bytes", 1)))


class GroupBusy(Busy):
    pass


class LimitBelowUsage(Busy):
    pass


class ShrinkStalled(Busy):
    pass


class ShrinkInProgress(Busy):
    pass


class LimitOrder(ShrinkdError):
    errno = errno.EINVAL


class Unsupported(ShrinkdError):
    errno = errno.EOPNOTSUPP


class UnsupportedLimit(Unsupported):
    pass


class UnsupportedOption(Unsupported):
    pass


class Interrupted(ShrinkdError):
    errno = errno.EINTR


class DaemonStopped(Interrupted):
    pass


class TimedOut(ShrinkdError):
    errno = errno.ETIMEDOUT


class ShrinkFinished(ShrinkdError):
    errno = errno.EALREADY


class TooManyShrinks(ShrinkdError):
    errno = errno.EAGAIN


class TooManySimulations(ShrinkdError):
    errno = errno.EAGAIN


class TooManyRequests(ShrinkdError):
    errno = errno.EAGAIN


class MisdirectedRequest(ShrinkdError):
    errno = errno.EHOSTUNREACH


class CrossSiteRequest(ShrinkdError):
    errno = errno.EACCES


class TooManyStreams(ShrinkdError):
    errno = errno.EAGAIN


class EventsExpired(ShrinkdError):
    errno = errno.ENODATA


class NotReady(ShrinkdError):
    errno = errno.EAGAIN


class PreconditionFailed(ShrinkdError):
    errno = errno.ESTALE


class KeyInUse(ShrinkdError):
    errno = errno.EINPROGRESS


class KeyReused(ShrinkdError):
    errno = errno.EKEYREJECTED


class OutcomeUnknown(ShrinkdError):
    errno = errno.ENOTRECOVERABLE


class StoreUnavailable(ShrinkdError):
    errno = errno.EIO


class InternalError(ShrinkdError):
    errno = errno.EIO


class KernelRefused(ShrinkdError):
    errno = errno.EIO


class OutOfResources(ShrinkdError):
    errno = errno.ENOMEM


class NotWritable(ShrinkdError):
    errno = errno.EROFS


class BackendUnavailable(ShrinkdError):
    errno = errno.ENXIO


class SettingsError(ShrinkdError):
    errno = errno.EINVAL


def errno_symbol(error: BaseException) -> str:
    """The symbol of the errno behind any error.

    EIO, that of a fault of this daemon, where there is none.
    """
    if isinstance(error, ShrinkdError):
        return error.errname
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    return _SYMBOLS.get(number or errno.EIO, "EIO")


def error_text(error: BaseException) -> str:
    """What an error says; its class where it says nothing."""
    return str(error) or type(error).__name__


_LACKING = (
    "This daemon or this kernel is short of something ({symbol}) and could not look at "
    "{group!a}: try again."
)
_FROM_KERNEL: dict[int, tuple[type[ShrinkdError], str]] = {
    errno.ENOENT: (GroupNotFound, "There is no group {group!a}."),
    errno.ENOTDIR: (GroupNotFound, "There is no group {group!a}."),
    errno.ELOOP: (
        InvalidGroupName,
        "A symbolic link stands in the way to {group!a}; groups are directories.",
    ),
    errno.ENAMETOOLONG: (
        InvalidGroupName,
        "{group!a:.80}… is longer than a path of the kernel can be.",
    ),
    errno.EXDEV: (InvalidGroupName, "{group!a} leads out of the memory controller."),
    errno.ENODEV: (GroupGone, "The group {group!a} was removed."),
    errno.EEXIST: (GroupExists, "The group {group!a} exists already."),
    errno.ENOTEMPTY: (GroupNotEmpty, "The group {group!a} still has processes or groups inside."),
    errno.EBUSY: (GroupBusy, "The kernel is holding {group!a} busy; try again."),
    errno.EINTR: (Interrupted, "Interrupted while working on {group!a}."),
    errno.ESRCH: (ProcessNotFound, "There is no such process."),
    errno.EACCES: (
        NotWritable,
        (
            "This daemon may not write to {group!a}: run it as root, with the controller mounted "
            "read-write."
        ),
    ),
    errno.EPERM: (
        NotWritable,
        (
            "This daemon may not write to {group!a}: run it as root, with the controller mounted "
            "read-write."
        ),
    ),
    errno.EROFS: (
        NotWritable,
        "The controller is mounted read-only, so {group!a} cannot be changed: mount it read-write.",
    ),
    **dict.fromkeys(
        (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM),
        (OutOfResources, _LACKING),
    ),
}


def map_oserror(error: OSError, group: str) -> ShrinkdError:
    """Name what the kernel said about a group; the symbol it used stays in the member `errno`."""
    number = error.errno or errno.EIO
    symbol = _SYMBOLS.get(number, str(number))
    kind, sentence = _FROM_KERNEL.get(
        number, (KernelRefused, "The kernel answered {symbol} for {group!a}.")
    )
    return kind(sentence.format(group=group, symbol=symbol), errno=symbol)


class Failure(StrEnum):
    """What the failure to read one group says about that group."""

    GONE = "gone"
    """It was removed, or a process of it has ended."""
    UNREADABLE = "unreadable"
    """It cannot be read because of what it is, and trying again changes nothing: its path is too
    long, its owner forbids it."""
    UNKNOWN = "unknown"
    """Nothing: this daemon was short of something, or the kernel gave an answer that nobody
    expected. The group may be there."""


_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ESRCH))
_UNREADABLE = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
        *(errno.EXDEV, errno.EINVAL, errno.EILSEQ, errno.EOPNOTSUPP, errno.EOVERFLOW),
    )
)
_FAILURES = {_SYMBOLS[number]: Failure.GONE for number in _GONE} | {
    _SYMBOLS[number]: Failure.UNREADABLE for number in _UNREADABLE
}


def classify_failure(error: OSError | ShrinkdError) -> Failure:
    """Classify an error that was met in reading one of many groups.

    Every errno that is not listed is UNKNOWN.
    """
    return _FAILURES.get(errno_symbol(error), Failure.UNKNOWN)


@contextmanager
def ignoring_unreadable() -> Iterator[None]:
    """Suppress what is wrong with one of many groups, that it is gone or unreadable.

    Raise what says nothing about it.
    """
    try:
        yield
    except (ShrinkdError, OSError) as error:
        if classify_failure(error) is Failure.UNKNOWN:
            raise
