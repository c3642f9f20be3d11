"""Define every error of shrinkd: an errno, a sentence for people, and members for programs.

    ShrinkdError
    ├── InvalidRequest        EINVAL      an invalid value
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
    │   ├── NotSimulator      ENXIO       only a simulator has it
    │   └── ProcessNotFound   ESRCH
    ├── GroupGone             ENODEV      this incarnation was removed; the path may live again
    ├── GroupExists           EEXIST
    ├── PolicyExists          EEXIST
    ├── PolicyConflict        EEXIST      a policy of its kind and priority has these groups
    ├── PolicyUnreadable      EBADMSG     another version of this daemon wrote it
    ├── GroupNotEmpty         ENOTEMPTY
    ├── GroupNotManaged       EPERM
    ├── ProtectedGroup        EPERM       the daemon itself is in it
    ├── Unauthenticated       ENOKEY      the caller is unknown
    │   └── TokenRefused      EKEYREJECTED
    ├── Forbidden             EACCES      a scope is missing
    ├── AmbiguousReference    ENOTUNIQ
    ├── Busy                  EBUSY       the errno of the 2008 patches
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
    ├── MisdirectedRequest    EHOSTUNREACH the Host is not this daemon
    ├── CrossSiteRequest      EACCES      sent by a page of another site
    ├── TooManyStreams        EAGAIN
    ├── EventsExpired         ENODATA     later events were deleted
    ├── NotReady              EAGAIN
    ├── PreconditionFailed    ESTALE
    ├── KeyInUse              EINPROGRESS  the first request of this idempotency key still runs
    ├── KeyReused             EKEYREJECTED another request had this idempotency key
    ├── OutcomeUnknown        ENOTRECOVERABLE the daemon died in the first request of this key
    ├── StoreUnavailable      EIO
    ├── InternalError         EIO         a bug in this daemon
    ├── KernelRefused         EIO         an errno that the table below lacks
    ├── OutOfResources        ENOMEM      no open files or memory left
    ├── NotWritable           EROFS
    ├── BackendUnavailable    ENXIO       at start: exit code 3
    └── SettingsError         EINVAL      at start: exit code 2

Errors are translated in two places: `map_oserror` turns the kernel's errno into a class, and
`app/shrinkd/api/http/problems.py` turns the class into a status. Code that reads many groups uses
`classify_failure` to find out what an error says about the group that it occurred at.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import ClassVar

# 95 has two names; this is the kernel's
_SYMBOLS = dict(errno.errorcode) | {errno.EOPNOTSUPP: "EOPNOTSUPP"}


class ShrinkdError(Exception):
    """Carry one sentence that says what is wrong and what to do, and its numbers as members."""

    errno: ClassVar[int]

    def __init__(self, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    @property
    def errname(self) -> str:
        """The errno symbol, such as "EBUSY"; a member may name the kernel's own."""
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
        """The bytes that usage has to be below a refused limit: 1, more if the group grows fast."""
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
    """Return the errno symbol of any error; EIO, that of an internal error, if it has none."""
    if isinstance(error, ShrinkdError):
        return error.errname
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    return _SYMBOLS.get(number or errno.EIO, "EIO")


def error_text(error: BaseException) -> str:
    """Return the message of an error, or its class if it has none."""
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
    """Convert an OSError about a group; the kernel's symbol becomes the member `errno`."""
    number = error.errno or errno.EIO
    symbol = _SYMBOLS.get(number, str(number))
    kind, sentence = _FROM_KERNEL.get(
        number, (KernelRefused, "The kernel answered {symbol} for {group!a}.")
    )
    return kind(sentence.format(group=group, symbol=symbol), errno=symbol)


class Failure(StrEnum):
    """Classify by what a failed read implies about the group."""

    GONE = "gone"
    """It was removed, or a process of it has ended."""
    UNREADABLE = "unreadable"
    """It is permanently unreadable, and a retry changes nothing: its path is too long, or its owner
    forbids it."""
    UNKNOWN = "unknown"
    """Nothing: this daemon lacked a resource, or the kernel gave an unexpected errno. The group may
    exist."""


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
    """Classify an error that occurred while reading one of many groups.

    An errno that is not listed is UNKNOWN.
    """
    return _FAILURES.get(errno_symbol(error), Failure.UNKNOWN)


@contextmanager
def ignoring_unreadable() -> Iterator[None]:
    """Suppress errors that concern one of many groups: it is gone or unreadable.

    Errors that say nothing about it are raised.
    """
    try:
        yield
    except (ShrinkdError, OSError) as error:
        if classify_failure(error) is Failure.UNKNOWN:
            raise
