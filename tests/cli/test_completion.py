"""Completion in real shells: what is completed is offered to people, and never run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.live_server import Live

NAMES = [
    *(
        "ev$(touch pwned)",
        "ev\\$(touch pwned)",
        "ev;touch pwned",
        "ev`touch pwned`",
        "ev\\`touch pwned`",
        "ev'\"$(touch pwned)",
        "ev&touch pwned",
    ),
    *(
        "ev'));touch pwned;((",
        'ev\\"));touch pwned;(("',
        "ev|touch pwned",
        "ev\u0085touch pwned",
        "ev *",
        "ev[a]",
        "ev~",
        "ev>pwned",
        "ev#",
        "ev!1",
    ),
]
OPTIONS = ["--help", "-rf", "--json"]
PLAIN = ["event", "events.slice", "event/a:b@c+d=e,f_g-h"]
_ATTEMPTS = 20
"""Completion gives the daemon half a second, which a busy machine may not have."""

BASH = """
eval "$(_SHRINKD_COMPLETE=source_bash shrinkd)"
COMP_WORDS=(shrinkd limit "$1") COMP_CWORD=2
_shrinkd_completion shrinkd
for each in "${COMPREPLY[@]}"; do eval "printf '%s\\n' $each"; done
"""
FISH = """
_SHRINKD_COMPLETE=source_fish shrinkd | source
for each in (complete -C "shrinkd limit $argv[1]"); eval printf "'%s\\n'" $each; end
"""
ZSHRC = """
autoload -Uz compinit && compinit -u -D
eval "$(_SHRINKD_COMPLETE=source_zsh shrinkd)"
setopt no_auto_menu auto_list no_list_beep
PS1='$ '
complete_and_tell() {
  zle expand-or-complete
  print -r -- "$BUFFER" >>$HOME/completed
  zle list-choices
  print -r -- '<<told>>'
}
zle -N complete_and_tell
bindkey '^I' complete_and_tell
"""
ZSH = """
zmodload zsh/zpty
zpty -b shell zsh -i
zpty -r -m shell seen '*$ *'
zpty -w -n shell "shrinkd limit $1"$'\\t'
zpty -r -m shell seen '*<<told>>*'
zpty -d shell
print -r -- "$seen" >>$HOME/seen
read -r completed <$HOME/completed
print -r -- ${completed#shrinkd limit }
"""


class Shells:
    """Shells in an empty folder, in which `shrinkd` completes from a live server."""

    def __init__(self, server: Live, folder: Path) -> None:
        self.folder = folder
        (folder / ".zshrc").write_text(ZSHRC)
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SHRINKD_", "XDG_"))
        }
        path = f"{Path(sys.executable).parent}:{environ['PATH']}"
        self.environ = environ | {
            "SHRINKD_URL": server.url,
            "PATH": path,
            "HOME": str(folder),
            "ZDOTDIR": str(folder),
            "TERM": "xterm",
        }

    def offered(self, shell: str, typed: str) -> list[str]:
        """Return what a shell completes after `shrinkd limit` and the text that was typed.

        Each of these run as one word of a command, as by Enter.
        """
        begin = {
            "bash": ["bash", "--norc", "-c", BASH, "bash", typed],
            "fish": ["fish", "--no-config", "-c", FISH, typed],
            "zsh": ["zsh", "-f", "-c", ZSH, "zsh", typed],
        }[shell]
        (self.folder / "completed").unlink(missing_ok=True)
        done = subprocess.run(
            begin,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not (self.folder / "pwned").exists(), "a name was run"
        return sorted(done.stdout.split("\n")[:-1])

    def offered_once_answered(
        self, shell: str, typed: str, enough: Callable[[list[str]], bool]
    ) -> list[str]:
        for _ in range(_ATTEMPTS):
            found = self.offered(shell, typed)
            if enough(found):
                break
        return found


@pytest.fixture(params=["bash", "fish", "zsh"])
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def shells(server: Live, tmp_path: Path) -> Shells:
    for name in (*NAMES, *OPTIONS, *PLAIN):
        server.client.post("/v1/groups", json={"path": name}).raise_for_status()
    (tmp_path / "home").mkdir()
    return Shells(server, tmp_path / "home")


def test_a_shell_is_offered_the_names_that_need_no_quotes_and_runs_none(
    shells: Shells, shell: str
) -> None:
    wanted = (
        ["event"] if shell == "zsh" else sorted(PLAIN)
    )  # zsh inserts what all of them have in common, and the others list them
    assert shells.offered_once_answered(shell, "ev", lambda found: found == wanted) == wanted


def test_a_name_of_which_the_dangerous_part_is_typed_is_not_completed(
    shells: Shells, shell: str
) -> None:
    assert not any("touch" in each for each in shells.offered(shell, "ev\\$"))


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_a_name_that_is_an_option_is_not_offered_where_nothing_is_typed(shells: Shells) -> None:
    offered = shells.offered_once_answered("bash", "", bool)
    assert "web" in offered
    assert not any(each.startswith("-") for each in offered)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_the_name_of_a_file_is_left_to_the_shell(shells: Shells) -> None:
    script = BASH.replace(
        'COMP_WORDS=(shrinkd limit "$1") COMP_CWORD=2',
        'COMP_WORDS=(shrinkd policies put x "$1") COMP_CWORD=4',
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "pol"],
        env=shells.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
