"""Commands on the node and its groups: node, groups, group, stats, limit."""

from typing import Annotated, Any

import typer

from shrinkd.cli.options import (
    LIMIT,
    AnyGroup,
    AsJson,
    DryRun,
    GroupName,
    IfMatch,
    TokenFile,
    Url,
    complete_group,
)
from shrinkd.cli.session import connected, show, show_list

cli = typer.Typer(rich_markup_mode=None)


@cli.command()
def node(as_json: AsJson = False, url: Url = None, token_file: TokenFile = None) -> None:
    """Show the node: its kernel, its memory, and its capabilities."""
    with connected(url, token_file) as shrinkd:
        show(shrinkd.node(), as_json=as_json)


@cli.command()
def groups(
    parent: Annotated[
        str | None, typer.Option(help="Only groups below this one.", autocompletion=complete_group)
    ] = None,
    order_by: Annotated[
        str,
        typer.Option(
            help="A field to sort by, such as path, or -usage_bytes for the largest first."
        ),
    ] = "path",
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List the groups."""
    with connected(url, token_file) as shrinkd:
        found = shrinkd.groups(parent=parent, order_by=order_by)
        show_list(
            found, ("usage_bytes", "max_bytes", "effective_max_bytes", "path"), as_json=as_json
        )


@cli.command()
def group(
    group: GroupName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show one group: its names and limits."""
    with connected(url, token_file) as shrinkd:
        show(shrinkd.group(group), as_json=as_json)


@cli.command()
def stats(
    group: AnyGroup = None, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show the statistics of a group; without GROUP, of all groups in a table."""
    with connected(url, token_file) as shrinkd:
        if group is not None:
            show(shrinkd.stats(group), as_json=as_json)
        else:
            columns = (
                "usage_bytes",
                "anon_bytes",
                "file_bytes",
                "swap_bytes",
                "reclaimable_estimate_bytes",
                "max_bytes",
                "group.path",
            )
            show_list(shrinkd.stats_all()["items"], columns, as_json=as_json)


@cli.command()
def limit(
    group: GroupName,
    maximum: Annotated[
        str | None,
        typer.Argument(
            help="max_bytes, such as 400M; max is no limit. Absent: show the limits.", **LIMIT
        ),
    ] = None,
    high: Annotated[
        str | None, typer.Option(help="Throttle the group above this usage.", **LIMIT)
    ] = None,
    low: Annotated[
        str | None,
        typer.Option(
            help="Usage to protect from reclaim where possible; max protects all, 0 none.", **LIMIT
        ),
    ] = None,
    minimum: Annotated[
        str | None,
        typer.Option(
            "--min", help="Usage to protect from reclaim always; max protects all, 0 none.", **LIMIT
        ),
    ] = None,
    swap_max: Annotated[
        str | None, typer.Option(help="The largest amount of swap.", **LIMIT)
    ] = None,
    soft_limit: Annotated[
        str | None, typer.Option(help="Reclaim first from groups above this usage.", **LIMIT)
    ] = None,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Set limits, all or none of them; without a limit, show the limits.

    A limit below usage is refused, and reclaims nothing.
    """
    given = {
        "max": maximum,
        "high": high,
        "low": low,
        "min": minimum,
        "swap_max": swap_max,
        "soft_limit": soft_limit,
    }
    limits: Any = {f"{name}_bytes": size for name, size in given.items() if size is not None}
    with connected(url, token_file) as shrinkd:
        if limits:
            show(
                shrinkd.set_limits(group, if_match=if_match, dry_run=dry_run, **limits),
                as_json=as_json,
            )
        else:
            show(shrinkd.limits(group), as_json=as_json)
