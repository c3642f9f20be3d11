"""Errors: an errno each, a sentence each, and the one table that names what a kernel says."""

import errno
import os
from collections.abc import Iterator

import pytest

from shrinkd import errors
from shrinkd.errors import Failure, ShrinkdError, classify_failure, ignoring_unreadable, map_oserror


def classes(kind: type[ShrinkdError] = ShrinkdError) -> Iterator[type[ShrinkdError]]:
    for below in kind.__subclasses__():
        yield below
        yield from classes(below)


@pytest.mark.parametrize("kind", list(classes()))
def test_every_error_has_an_errno_that_the_kernel_knows(kind: type[ShrinkdError]) -> None:
    assert getattr(errno, kind("Something.").errname) == kind.errno


@pytest.mark.parametrize("kind", list(classes()))
def test_every_error_stands_in_the_tree_of_the_docstring(kind: type[ShrinkdError]) -> None:
    assert any(
        line.split()[-1] == kind.__name__ or f" {kind.__name__} " in line
        for line in (errors.__doc__ or "").splitlines()
        if line
    )


def test_an_error_keeps_its_sentence_and_the_numbers_in_it() -> None:
    error = errors.LimitBelowUsage("Too little.", usage_bytes=4096)
    assert (str(error), error.detail, error.members) == (
        "Too little.",
        "Too little.",
        {"usage_bytes": 4096},
    )


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, errors.GroupNotFound),
        (errno.ENOTDIR, errors.GroupNotFound),
        (errno.ELOOP, errors.InvalidGroupName),
        (errno.ENAMETOOLONG, errors.InvalidGroupName),
        (errno.EXDEV, errors.InvalidGroupName),
        (errno.ENODEV, errors.GroupGone),
        (errno.EEXIST, errors.GroupExists),
        (errno.ENOTEMPTY, errors.GroupNotEmpty),
        (errno.EBUSY, errors.GroupBusy),
        (errno.EINTR, errors.Interrupted),
        (errno.ESRCH, errors.ProcessNotFound),
        (errno.EACCES, errors.NotWritable),
        (errno.EPERM, errors.NotWritable),
        (errno.EROFS, errors.NotWritable),
        (errno.EINVAL, errors.KernelRefused),
        (errno.EMFILE, errors.OutOfResources),
        (errno.ENFILE, errors.OutOfResources),
        (errno.ENOMEM, errors.OutOfResources),
    ],
)
def test_what_the_kernel_says_becomes_an_error_that_keeps_its_symbol(
    number: int, kind: type[ShrinkdError]
) -> None:
    error = map_oserror(OSError(number, os.strerror(number)), "pod/web")
    assert type(error) is kind
    assert error.errname == errno.errorcode[number]
    assert error.detail.endswith(".")


@pytest.mark.parametrize(
    "error", [OSError(), OSError(None, "no number"), OSError(99999, "an unknown number")]
)
def test_an_errno_that_nobody_knows_is_still_an_error_of_ours(error: OSError) -> None:
    assert type(map_oserror(error, "web")) is errors.KernelRefused


def test_a_strange_group_name_is_shown_without_its_strangeness() -> None:
    assert "'caf\\xe9\\n'" in map_oserror(OSError(errno.ENOENT, ""), "café\n").detail


@pytest.mark.parametrize(
    ("failure", "numbers"),
    [
        (Failure.GONE, [errno.ENOENT, errno.ENODEV, errno.ESRCH]),
        (
            Failure.UNREADABLE,
            [
                errno.ENAMETOOLONG,
                errno.EACCES,
                errno.EPERM,
                errno.ELOOP,
                errno.ENOTDIR,
                errno.EXDEV,
                errno.EOPNOTSUPP,
            ],
        ),
        (
            Failure.UNKNOWN,
            [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EIO, errno.EAGAIN, 99999],
        ),
    ],
)
def test_an_errno_says_the_same_of_a_group_before_and_behind_the_table_that_names_it(
    failure: Failure, numbers: list[int]
) -> None:
    met = [OSError(number, os.strerror(number)) for number in numbers]
    assert (
        {classify_failure(error) for error in met}
        == {classify_failure(map_oserror(error, "web")) for error in met}
        == {failure}
    )


def test_what_is_gone_or_unreadable_is_left_out_and_what_says_nothing_of_a_group_is_raised() -> (
    None
):
    for number in (errno.ENODEV, errno.EACCES):
        with ignoring_unreadable():
            raise map_oserror(OSError(number, ""), "web")
    with pytest.raises(errors.OutOfResources), ignoring_unreadable():
        raise map_oserror(OSError(errno.EMFILE, ""), "web")
    with pytest.raises(errors.StoreUnavailable), ignoring_unreadable():
        raise errors.StoreUnavailable("The disk is full.")
