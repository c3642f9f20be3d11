"""Generate a client from openapi/openapi.json with openapi-python-client, and use it.

It is complete, it can be imported, and it works.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.live_server import Live

pytestmark = pytest.mark.long

BIN = ROOT / ".venv-client" / "bin"
IMPORT_ALL = """
import importlib, pkgutil, shrinkd_client
found = pkgutil.walk_packages(shrinkd_client.__path__, "shrinkd_client.")
names = [module.name for module in found]
for name in names:
    importlib.import_module(name)
"""
WALK = """
import sys
from shrinkd_client import Client
from shrinkd_client.api.groups import list_groups
from shrinkd_client.api.shrinks import cancel_shrink, create_shrink, get_shrink
from shrinkd_client.api.limits import batch_limits, get_limits, patch_limits
from shrinkd_client.api.policies import create_policy
from shrinkd_client.models import Batch, BatchItem, GroupPage, LimitPolicyInput, LimitsBody
from shrinkd_client.models import LimitsPatch, NewShrink, Problem, ShrinkBody
from shrinkd_client.models import KeepLimits, KeepLimitsInput, SelectorInput, WantedLimitsInput

with Client(base_url=sys.argv[1]) as client:
    page = list_groups.sync(client=client, fields="path,usage_bytes")
    assert isinstance(page, GroupPage), page
    usage = {row.path: row.usage_bytes for row in page.items}
    assert usage["web"] > 0, usage
    slow = NewShrink(reclaim_bytes="50M", max_bytes_per_second=4096)
    started = create_shrink.sync_detailed("web", client=client, body=slow)
    shrink = started.parsed
    assert (started.status_code, type(shrink)) == (202, ShrinkBody), started
    second = create_shrink.sync_detailed("web", client=client, body=NewShrink(reclaim_bytes="50M"))
    assert isinstance(second.parsed, Problem), second
    assert second.parsed.type_ == "/problems/shrink-in-progress", second
    asked = cancel_shrink.sync_detailed(shrink.id, client=client)
    assert asked.status_code in {200, 202}, asked
    ended = get_shrink.sync(shrink.id, client=client, prefer="wait=30")
    assert (ended.state, ended.done) == ("cancelled", True), ended

    read = get_limits.sync_detailed("web", client=client)
    etag, body = read.headers["etag"], LimitsPatch(max_bytes="1G")
    kept = patch_limits.sync("web", client=client, body=body, if_match=etag)
    assert isinstance(kept, LimitsBody), kept
    body = LimitsPatch(max_bytes=None)
    late = patch_limits.sync("web", client=client, body=body, if_match='"other"')
    assert (type(late), late.status) == (Problem, 412), late
    items = [BatchItem(group=group, patch=LimitsPatch(max_bytes="2G")) for group in ("web", "none")]
    answers = batch_limits.sync(client=client, body=Batch(items=items)).items
    kinds = [(answer.status, type(answer.body)) for answer in answers]
    assert kinds == [(200, LimitsBody), (404, Problem)], answers
    spec = KeepLimitsInput(limits=WantedLimitsInput(max_bytes="2G"))
    web = SelectorInput(group="web")
    policy = LimitPolicyInput(name="generated", kind="limit", selector=web, spec=spec)
    written = create_policy.sync(client=client, body=policy)
    assert (type(written.spec), written.spec.limits.max_bytes) == (KeepLimits, 2**31), written
"""


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A folder with the generated package shrinkd_client. A warning is a failure."""
    if not (BIN / "openapi-python-client").exists():
        pytest.skip("no .venv-client: say make develop")
    document = str(ROOT / "openapi" / "openapi.json")
    given = (
        "--fail-on-warning",
        "--meta",
        "none",
        "--path",
        document,
        "--output-path",
        "shrinkd_client",
    )
    run("openapi-python-client", "generate", *given, folder=tmp_path)
    return tmp_path


def run(program: str, *arguments: str, folder: Path) -> None:
    environ = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [BIN / program, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_a_generated_client_can_be_imported(client: Path) -> None:
    run("python", "-c", IMPORT_ALL, folder=client)


def test_a_generated_client_lists_shrinks_cancels_limits_and_keeps_limits(
    client: Path, server: Live
) -> None:
    run("python", "-c", WALK, server.url, folder=client)
