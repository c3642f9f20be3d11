"""Commands on policies: policies, and policies show, put, delete, evaluate, decisions."""

import json
from typing import Annotated

import typer

from shrinkd.cli.options import (
    AsJson,
    DryRun,
    IfMatch,
    PolicyName,
    TokenFile,
    Url,
    complete_file,
    complete_group,
)
from shrinkd.cli.session import connected, show, show_list

cli = typer.Typer(rich_markup_mode=None)


@cli.callback(invoke_without_command=True)
def list_policies(
    context: typer.Context,
    group: Annotated[
        str | None,
        typer.Option(help="Only policies that select this group.", autocompletion=complete_group),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List the policies, which manage the memory of groups; or work on one policy."""
    if context.invoked_subcommand is None:
        with connected(url, token_file) as shrinkd:
            columns = (
                "name",
                "kind",
                "mode",
                "enabled",
                "priority",
                "status.matched_groups",
                "status.last_decision.reason",
            )
            show_list(shrinkd.policies(group=group), columns, as_json=as_json)


@cli.command("show")
def show_policy(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show a policy and its status."""
    with connected(url, token_file) as shrinkd:
        show(shrinkd.policy(name), as_json=as_json)


@cli.command("put")
def put_policy(
    name: PolicyName,
    file: Annotated[
        typer.FileText,
        typer.Argument(
            autocompletion=complete_file,
            help="A file with the policy as JSON; - is standard input.",
        ),
    ],
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Create a policy, or replace it completely."""
    try:
        policy = json.load(file)
    except ValueError as error:
        raise typer.BadParameter(f"{file.name} is not JSON: {error}") from None
    with connected(url, token_file) as shrinkd:
        show(shrinkd.put_policy(name, policy, if_match=if_match, dry_run=dry_run), as_json=as_json)


@cli.command("delete")
def delete_policy(
    name: PolicyName,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a policy; its past changes are not undone."""
    with connected(url, token_file) as shrinkd:
        shrinkd.delete_policy(name, if_match=if_match, dry_run=dry_run)


@cli.command("evaluate")
def evaluate_policy(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show what a policy would do now to each of its groups, and the reason."""
    with connected(url, token_file) as shrinkd:
        show_list(
            shrinkd.evaluate_policy(name)["items"],
            ("verdict", "reason", "asked_bytes", "group.path", "signals"),
            as_json=as_json,
        )


@cli.command("decisions")
def list_decisions(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """List the decisions of a policy, newest first."""
    with connected(url, token_file) as shrinkd:
        columns = (
            "decided_at",
            "verdict",
            "reason",
            "asked_bytes",
            "freed_bytes",
            "times",
            "group.path",
        )
        show_list(shrinkd.decisions(policy=name), columns, as_json=as_json)
