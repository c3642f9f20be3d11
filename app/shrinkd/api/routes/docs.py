"""Pages for people: Swagger UI, served from the package, and a page for each kind of problem."""

from html import escape
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from shrinkd.api.http.problem_types import BY_SLUG, Problem
from shrinkd.api.openapi.responses import refuses
from shrinkd.errors import ProblemNotFound

UI_FILES = Path(str(files("shrinkd.dashboard"))) / "swagger"
router = APIRouter(tags=["docs"])

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>{head}<link rel="stylesheet" href="/ui/pages.css">
<link rel="icon" href="/ui/favicon.svg" type="image/svg+xml"></head>
<body><nav class="bar">
<a class="home" href="/docs"><img src="/ui/favicon.svg" alt="" width="24" height="24">shrinkd</a>
<a href="/docs">API</a><a href="/problems">Problems</a><a href="/openapi.json">openapi.json</a>
</nav>{body}</body></html>
"""
_DOCS_HEAD = '<link rel="stylesheet" href="/ui/swagger-ui.css">'
_DOCS_BODY = (
    '<div id="swagger-ui"></div>'
    '<noscript><main class="text"><p>This page needs JavaScript; <a '
    'href="/openapi.json">openapi.json</a> does not.</p></main></noscript>'
    '<script src="/ui/swagger-ui-bundle.js"></script><script src="/ui/init.js"></script>'
)
_HEADERS = {
    # Swagger UI loads its icons from data: URLs. It sets styles through the DOM, which the policy
    # does not restrict, so 'unsafe-inline' is not needed.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


@router.get("/problems", operation_id="list_problems", response_class=HTMLResponse)
async def list_problems() -> Response:
    """List every kind of problem."""
    rows = (
        f'<li><span class="status">{problem.status}</span><a '
        f'href="/problems/{slug}">{slug}</a><span>{escape(problem.title)}</span></li>'
        for slug, problem in sorted(BY_SLUG.items())
    )
    return _page(
        "Problems",
        f'<main class="text"><h1>Problems</h1><ul class="problems">{"".join(rows)}</ul></main>',
    )


@router.get(
    "/problems/{slug}",
    operation_id="get_problem",
    response_class=HTMLResponse,
    responses=refuses(ProblemNotFound),
)
async def get_problem(slug: str) -> Response:
    """Explain one kind of problem."""
    problem = find_problem(slug)
    kind = (
        f'<p class="kind"><code>{problem.slug}</code> HTTP {problem.status} '
        f"{HTTPStatus(problem.status).phrase}</p>"
    )
    return _page(
        problem.title,
        "<main "
        f'class="text"><h1>{escape(problem.title)}</h1>{kind}<p>{_code(problem.advice)}</p></main>',
    )


@router.get("/docs", operation_id="get_docs", response_class=HTMLResponse, include_in_schema=False)
async def get_docs() -> Response:
    """Show the interactive documentation."""
    return _page("API", _DOCS_BODY, _DOCS_HEAD)


@router.get("/", include_in_schema=False)
async def get_root() -> Response:
    """Redirect from the root to the documentation."""
    return Response(status_code=307, headers={"Location": "/docs"})


class Files(StaticFiles):
    """Static files with the headers of the pages, because an image can be opened as a page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def find_problem(slug: str) -> Problem:
    """Return a kind of problem by its slug, or raise ProblemNotFound."""
    if slug not in BY_SLUG:
        raise ProblemNotFound(f"There is no problem {slug!a}.")
    return BY_SLUG[slug]


def _page(title: str, body: str, head: str = "") -> Response:
    return HTMLResponse(
        _PAGE.format(title=f"{escape(title)} · shrinkd", head=head, body=body), headers=_HEADERS
    )


def _code(text: str) -> str:
    """Escape a text for HTML, and mark parts between backticks as code."""
    return "".join(
        f"<code>{part}</code>" if index % 2 else part
        for index, part in enumerate(escape(text).split("`"))
    )
