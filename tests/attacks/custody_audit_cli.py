"""What lies on the machine: keys, tokens, logs, sockets, the memory of other processes.

On one machine the engine's user stands for what an attacker gets by breaking the engine, the
agent's user for root in the guest. Both are held back by the kernel; so these run as root only,
who can become them.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.acceptance.installation import files_below
from tests.attacks.case import ABSENT, FORBIDDEN, HARMLESS, NO_TRAIL, Attack
from tests.attacks.scene import Guest, Scene
from tests.attacks.wire import Answer
from trovectl import procfs

# Says what came of it: the content's length, or the kernel's word.
_READ = """
import os, sys
try:
    path = sys.argv[1]
    found = os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(4096)
    print('READ', len(found))
except OSError as error:
    print('ERROR', error.errno)
"""
_WRITE = """
import sys
try:
    open(sys.argv[1], 'ab').write(b'x')
    print('READ 1')
except OSError as error:
    print('ERROR', error.errno)
"""
_DIAL = """
import json, socket, struct, sys
try:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(3)
    made.connect(sys.argv[1])
    request = json.dumps({'operation': 'read', 'path': '/etc/hostname'}).encode()
    made.sendall(struct.pack('>I', len(request)) + request)
    answer = made.recv(65536)
    print('READ', answer) if b'data' in answer else print('ERROR refused', answer)
except OSError as error:
    print('ERROR', error.errno)
"""
_KILL = """
import os, sys
try:
    os.kill(int(sys.argv[1]), 9)
    print('READ killed')
except OSError as error:
    print('ERROR', error.errno)
"""
_GET = """
import sys, urllib.request
print('READ', urllib.request.urlopen(f'http://{sys.argv[1]}/metrics', timeout=5).read().decode())
"""


def _as_user(user: str, program: str, argument: str) -> subprocess.CompletedProcess[str]:
    entry = pwd.getpwnam(user)
    return subprocess.run(
        ["/usr/bin/python3", "-I", "-c", program, argument],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _owner(path: Path) -> str:
    return path.owner()


def engine_user(scene: Scene, guest: Guest) -> str:
    return _owner(scene.folder(guest) / "engine")


def agent_user(scene: Scene, guest: Guest) -> str:
    return _owner(scene.folder(guest) / "agent")


def _tries(
    who: Callable[[Scene, Guest], str],
    program: str,
    targets: Callable[[Scene], Sequence[object]],
) -> Callable[[Scene], Answer]:
    """Try it on each target as that user of the attacked guest; every one must be refused."""

    def run(scene: Scene) -> Answer:
        user = who(scene, scene.attacked)
        tried = list(targets(scene))
        assert tried
        for target in tried:
            done = _as_user(user, program, str(target))
            assert done.stdout.startswith("ERROR"), f"{user} and {target}: {done}"
        return Answer(outcome=FORBIDDEN)

    return run


def _own_agents_files(scene: Scene) -> list[Path]:
    folder = scene.folder(scene.attacked)
    return [
        folder / "agent",
        folder / "agent" / "identity" / "current" / "key.pem",
        folder / "agent" / "state",
        folder / "agent.toml",
        folder / "guest.json",
    ]


def _neighbours_files(scene: Scene) -> list[Path]:
    folder = scene.folder(scene.neighbour)
    return [
        folder,
        folder / "agent",
        folder / "agent" / "identity" / "current" / "key.pem",
        folder / "engine",
        folder / "agent.toml",
        folder / "guest.json",
    ]


def _control_plane_files(scene: Scene) -> list[Path]:
    state = scene.plane.state
    return [
        state,
        state / "issuer" / "custody",
        state / "issuer" / "passphrase",
        state / "issuer" / "issuer.db",
        state / "conductor" / "conductor.db",
        state / "conductor" / "sealing.key",
        state / "taskmanager" / "flows.db",
        state / "gateway" / "identity" / "current" / "key.pem",
        state / "operator" / "identity" / "current" / "key.pem",
        state / "logs",
        state / "logs" / "gateway.log",
        state / "processes.json",
    ]


def _settings(scene: Scene) -> list[Path]:
    folder = scene.folder(scene.attacked)
    return [folder / "agent.toml", folder / "guest.json", scene.plane.state / "lock"]


def _sockets(scene: Scene) -> list[Path]:
    run = Path(next(scene.plane.state.glob("run"), Path("/nonexistent")))
    found = [*run.rglob("operator.sock"), *run.rglob("supervisor.sock")]
    assert len(found) == 2, found
    return found


def _launchers(scene: Scene) -> list[Path]:
    """Of the neighbour, and the attacked guest's own (its engine's user may not ask it)."""
    run = scene.plane.state / "run"
    return [
        run / guest.id[:13] / "launcher" / "launcher.sock"
        for guest in (scene.neighbour, scene.attacked)
    ]


def _neighbours_launcher(scene: Scene) -> list[Path]:
    return _launchers(scene)[:1]


def _processes(scene: Scene) -> list[int]:
    names = ("issuer", "conductor", "taskmanager", "gateway", "api")
    return [*(scene.plane.pid_of(name) for name in names), scene.agent_pid(scene.neighbour)]


def _proc(*names: str) -> Callable[[Scene], list[Path]]:
    return lambda scene: [
        Path(f"/proc/{pid}/{name}")
        for pid in [*_processes(scene), scene.agent_pid(scene.attacked)]
        for name in names
    ]


def _command_lines(scene: Scene) -> Answer:
    """Command lines are for everybody to read: nothing in them may be secret."""
    secrets = _secrets(scene)
    for process in procfs.under(scene.plane.state):
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert not [each for each in secrets if each in line], line
    return Answer(outcome=ABSENT)


def _metrics(scene: Scene) -> Answer:
    """Loopback ports are open to every user of the machine: they name no guest and no tenant."""
    user = engine_user(scene, scene.attacked)
    for process in ("gateway", "issuer", "conductor", "taskmanager", "api"):
        done = _as_user(user, _GET, scene.endpoints[f"{process}-metrics"])
        assert done.stdout.startswith("READ"), done
        for hidden in (scene.neighbour.id, "acceptance", str(scene.plane.state), "PRIVATE"):
            assert hidden not in done.stdout, f"{process} shows {hidden}"
    return Answer(outcome=HARMLESS)


def _secrets(scene: Scene) -> list[bytes]:
    keys = [
        path.read_bytes().splitlines()[1]
        for path in files_below(scene.plane.state)
        if path.name == "key.pem" and path.is_file() and not path.is_symlink()
    ]
    passphrase = (scene.plane.state / "issuer" / "passphrase").read_bytes().strip()
    sealing = (scene.plane.state / "conductor" / "sealing.key").read_bytes()
    return [*keys, passphrase, sealing, b"s3cret-Pass"]


def _records(scene: Scene) -> Answer:
    """Logs, databases and flow records hold no token, key, passphrase or password."""
    token = scene.token(scene.spare)
    secrets = [*_secrets(scene), token.split(".")[2].encode(), token.encode()]
    scene.mark()
    looked = 0
    state = scene.plane.state
    paths = [
        *(state / "logs").glob("*.log"),
        *(path for path in state.glob("*/*.db*") if path.is_file()),
        *(path for path in state.glob("*/config.toml")),
        state / "processes.json",
    ]
    for path in paths:
        content = path.read_bytes()
        found = [each for each in secrets if each in content]
        assert not found, f"{path} holds {len(found)} secrets"
        looked += 1
    scene.notes.append(
        f"{looked} logs, databases and settings hold none of {len(secrets)} secrets"
    )
    return Answer(outcome=ABSENT)


def _spent_token(scene: Scene) -> Answer:
    """After enrolment the token's file is gone from the guest."""
    for guest in (scene.attacked, scene.neighbour):
        assert not (scene.folder(guest) / "agent" / "token").exists()
    return Answer(outcome=ABSENT)


def _modes(scene: Scene) -> Answer:
    """No file below the state directory may be read or written by others but public ones."""
    public = {"bundle.pb", "chain.pem"}
    for folder, _, names in os.walk(scene.plane.state):
        if "/runtime/" in f"{folder}/":
            continue  # the product's own code, for every user to run
        for name in names:
            path = Path(folder) / name
            if path.is_symlink() or path.is_socket() or not path.is_file():
                continue
            others = path.stat().st_mode & 0o007
            is_inside = any(
                not each.stat().st_mode & 0o001
                for each in path.parents
                if each.is_relative_to(scene.plane.state)
            )
            assert not others or name in public or is_inside, f"{path}: {others:o}"
            assert not others & 0o002 or is_inside, path
    return Answer(outcome=ABSENT)


_READS = "a broken engine reads what is not its own"


def _forbidden(
    name: str,
    who: Callable[[Scene, Guest], str],
    program: str,
    targets: Callable[[Scene], Sequence[object]],
    *cases: int,
    threat: str = _READS,
    smoke: bool = False,
) -> Attack:
    return Attack(
        name=name,
        threat=threat,
        run=_tries(who, program, targets),
        expect=(FORBIDDEN,),
        trail=NO_TRAIL,
        cases=cases,
        smoke=smoke,
        needs_root=True,
    )


_MEMORY = _proc("environ", "mem", "maps", "fd", "io")

ATTACKS = (
    _forbidden(
        "the engine's user reads its agent's key and settings",
        engine_user,
        _READ,
        _own_agents_files,
        66,
        smoke=True,
    ),
    _forbidden(
        "the engine's user reads the neighbour's files", engine_user, _READ, _neighbours_files, 66
    ),
    _forbidden(
        "the engine's user reads the control plane's files",
        engine_user,
        _READ,
        _control_plane_files,
        66,
    ),
    _forbidden(
        "the agent's user reads the neighbour's files",
        agent_user,
        _READ,
        _neighbours_files,
        66,
        smoke=True,
    ),
    _forbidden(
        "the agent's user reads the control plane's files",
        agent_user,
        _READ,
        _control_plane_files,
        66,
    ),
    _forbidden(
        "the agent's user changes its own settings",
        agent_user,
        _WRITE,
        _settings,
        threat="an agent is told of another gateway at its next start",
    ),
    _forbidden(
        "the engine's user changes its agent's settings",
        engine_user,
        _WRITE,
        _settings,
        threat="an agent is told of another gateway at its next start",
    ),
    _forbidden(
        "the engine's user dials the operator's and the supervisor's sockets",
        engine_user,
        _DIAL,
        _sockets,
        threat="whoever may enter there is an operator",
    ),
    _forbidden(
        "the agent's user dials the operator's and the supervisor's sockets",
        agent_user,
        _DIAL,
        _sockets,
        threat="whoever may enter there is an operator",
    ),
    _forbidden(
        "the engine's user asks launchers",
        engine_user,
        _DIAL,
        _launchers,
        threat="programs run as the neighbour's engine",
    ),
    _forbidden(
        "the agent's user asks the neighbour's launcher",
        agent_user,
        _DIAL,
        _neighbours_launcher,
        threat="programs run as the neighbour's engine",
    ),
    _forbidden(
        "the engine's user reads other processes' memory and environment",
        engine_user,
        _READ,
        _MEMORY,
        73,
    ),
    _forbidden(
        "the agent's user reads other processes' memory and environment",
        agent_user,
        _READ,
        lambda s: [each for each in _MEMORY(s) if str(s.agent_pid(s.attacked)) not in str(each)],
        73,
    ),
    _forbidden(
        "the engine's user kills other processes",
        engine_user,
        _KILL,
        _processes,
        threat="the control plane ends",
    ),
    _forbidden(
        "the agent's user kills other processes",
        agent_user,
        _KILL,
        _processes,
        threat="the control plane ends",
    ),
    Attack(
        name="looking for secrets in command lines",
        threat=_READS,
        run=_command_lines,
        expect=(ABSENT,),
        trail=NO_TRAIL,
        cases=(73,),
    ),
    Attack(
        name="looking for secrets in logs, databases and settings",
        threat="a stolen backup or log is a stolen identity",
        run=_records,
        expect=(ABSENT,),
        trail=NO_TRAIL,
        cases=(73,),
        smoke=True,
    ),
    Attack(
        name="looking for a spent token in the guest",
        threat="a token is found after its use",
        run=_spent_token,
        expect=(ABSENT,),
        trail=NO_TRAIL,
    ),
    Attack(
        name="looking for files that others may read",
        threat=_READS,
        run=_modes,
        expect=(ABSENT,),
        trail=NO_TRAIL,
        cases=(66,),
        needs_root=True,
    ),
    Attack(
        name="the engine's user reads metrics",
        threat="metrics name guests, tenants or paths",
        run=_metrics,
        expect=(HARMLESS,),
        trail=NO_TRAIL,
        needs_root=True,
    ),
)
