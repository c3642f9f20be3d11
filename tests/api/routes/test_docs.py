"""Pages for people: they exist, and escape what a client sent."""

import httpx
import pytest

from shrinkd.api.http.problem_types import BY_SLUG
from tests.support.problem_checks import problem


def test_the_address_alone_leads_to_the_documentation(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


def test_the_list_of_problems_leads_to_each(client: httpx.Client) -> None:
    page = client.get("/problems").text
    assert [slug for slug in BY_SLUG if f'href="/problems/{slug}"' not in page] == []


@pytest.mark.parametrize("slug", ["<script>", "none%0d%0aX:1", "%00", "%22", "Not-Found"])
def test_a_problem_that_is_none_is_a_problem_and_no_page(client: httpx.Client, slug: str) -> None:
    problem(client.get(f"/problems/{slug}"), 404, "problem-not-found")


def test_every_explanation_says_what_to_do(client: httpx.Client) -> None:
    assert [row.slug for row in BY_SLUG.values() if not row.advice.endswith(".")] == []
    assert "<code>next</code>" in client.get("/problems/limit-below-usage").text
