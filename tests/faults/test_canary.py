"""No secret is ever seen: real runs, real faults, and a search for every byte of every secret.

A run of the matrix is one process with three environments, one of each dialect, and in each a key
for every sink. Each environment meets its own fault of the laboratory at each kind of step, and
each sink its own trouble. What is searched is stdout, stderr, every file that was left but the
sinks' own, and the command lines of the process and of all that it started.

`CANARY=full` runs the product of faults, troubles, credentials, formats and log levels in place of
the rows that meet each pair of faults and steps, and of troubles and sinks: hours, not a minute.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote, quote_plus, urlsplit

import pytest
from delivering import ALL_KINDS, STORE, TOKEN, Aws, Command, Item, Project, place
from laboratory import FAULTS, Fault, Laboratory, is_write

from provisioner.sandbox import Dialect, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FULL = os.environ.get("CANARY") == "full"
PIECES = 2

EMAIL = "canary+ü5f1c@example.com"
PASSWORD = 'pass "wörd"/canary+%7e2b'
HEADER = 'header-canary/19d+"z"=='
NEIGHBOUR = "neighbour-canary-61aa0c"
BEGINNING = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ"
"""How every token of the embedded Twenty begins, also one that was cut short."""


# The search


def forms(secret: str) -> set[bytes]:
    """A secret as it may turn up in a stream, a file or a command line."""
    raw = secret.encode()
    found = {
        raw,
        json.dumps(secret)[1:-1].encode(),
        json.dumps(json.dumps(secret)[1:-1])[1:-1].encode(),
        repr(secret)[1:-1].encode(),
        repr(raw)[2:-1].encode(),
        quote(secret, safe="").encode(),
        quote(secret).encode(),
        quote_plus(secret).encode(),
    }
    for offset in range(3):
        first, last = -(-8 * offset // 6), 8 * (offset + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(offset) + raw)[first:last])
    if TOKEN.fullmatch(secret):
        found.add(secret.rpartition(".")[2].encode())
    return found


def leaks(places: Mapping[str, bytes], secrets: Iterable[str]) -> list[tuple[str, str]]:
    """Where a secret is seen, and which one."""
    wanted = [(secret, form) for secret in {*secrets} for form in forms(secret)]
    found = {
        (where, secret) for where, text in places.items() for secret, form in wanted if form in text
    }
    found |= {(where, "a token") for where, text in places.items() if BEGINNING in text}
    return sorted(found)


class Onlooker:
    """Reads the command lines of a process and of everything below it, until it has ended."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._pid = process.pid
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._look)
        self.seen: set[bytes] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait(self, text: bytes) -> bool:
        """Waits until a command line had this text in it."""
        with self._changed:
            return self._changed.wait_for(lambda: any(text in one for one in self.seen), 30)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            lines = set(self._lines(self._pid))
            with self._changed:
                self.seen |= lines
                self._changed.notify_all()

    def _lines(self, pid: int) -> Iterator[bytes]:
        folder = Path("/proc", str(pid))
        try:
            yield (folder / "cmdline").read_bytes()
            children = [(one / "children").read_text() for one in (folder / "task").iterdir()]
        except OSError:  # it has ended
            return
        for child in " ".join(children).split():
            yield from self._lines(int(child))


# The troubles of sinks

Trouble = Literal["none", "denied", "broken", "echo", "lost", "redirect"]
TROUBLES: tuple[Trouble, ...] = ("none", "denied", "broken", "echo", "lost", "redirect")
"""None; a 403 and a 500 that repeat the request; the same for writes alone; a write that is done
and whose connection breaks off; a redirect."""


def writes(method: str, headers: Mapping[str, str], path: str) -> bool:
    """Whether a request carries a token to a vendor."""
    target = headers.get("X-Amz-Target", "")
    if target:
        return target.endswith(("PutSecretValue", "CreateSecret"))
    return method in ("PUT", "PATCH") or (
        method == "POST" and ("/data/" in path or path.endswith("/variables"))
    )


class Gate:
    """Stands before a vendor's server and troubles the requests that are about some names.

    Args:
        upstream: the vendor's address.
        troubles: by a part of the key's name.
    """

    def __init__(self, upstream: str, troubles: Mapping[str, Trouble]) -> None:
        self.upstream = urlsplit(upstream).netloc
        self._troubles = troubles
        self._http = _GateServer(("127.0.0.1", 0), _Handler)
        self._http.gate = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(10)
        self._http.server_close()

    def trouble(self, text: str) -> Trouble:
        """What befalls a request with this path and body."""
        found = [one for part, one in self._troubles.items() if part in text.lower()]
        return found[0] if found else "none"


class _GateServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    gate: Gate

    def handle_error(self, *_: Any) -> None:
        """Clients break connections off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = -1
    server: _GateServer

    def serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = self.server.gate.trouble(self.path + raw.decode(errors="replace"))
        if trouble in ("echo", "lost") and not writes(self.command, self.headers, self.path):
            trouble = "none"
        repeated = f"{self.command} {self.path}\n{self.headers}".encode() + raw
        match trouble:
            case "none":
                self.answer(*self.forward(raw))
            case "lost":
                self.forward(raw)
                self.close_connection = True
            case "redirect":
                where = f"{self.server.gate.url}/elsewhere?{quote(raw[:900])}"
                self.answer(307, {"Location": where}, repeated)
            case "denied":
                self.answer(403, {}, repeated)
            case "broken" | "echo":
                self.answer(500, {}, repeated)

    def forward(self, raw: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.gate.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, raw, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = serve  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        pass


# The faults of the server

STEPS = ("sign-in", "look", "create", "mint", "prove")


def step_of(request: Request) -> str:
    if b"getLoginToken" in request.body or b"getAuthTokens" in request.body:
        return "sign-in"
    if b"generateApiKeyToken" in request.body:
        return "mint"
    if is_write(request):
        return "create"
    return "prove" if b'"{__typename}"' in request.body else "look"


class AtEachStep:
    """The first and the fourth request of each kind of step meet the fault of that step."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        self._faults = faults
        self._counts: Counter[str] = Counter()
        self.met: set[str] = set()

    def __call__(self, _number: int, request: Request) -> Fault | None:
        step = step_of(request)
        self._counts[step] += 1
        if self._counts[step] not in (1, 4):
            return None
        self.met.add(step)
        return self._faults[step]


class Witnessed(Laboratory):
    """A laboratory that knows every token which its server ever gave away."""

    def __init__(self, dialect: Dialect) -> None:
        self.tokens: set[str] = set()
        self.minted: set[str] = set()
        super().__init__(dialect)

    def _around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        def noted(request: Request) -> Response:
            answer = inner(request)
            tokens = TOKEN.findall(answer.body.decode(errors="replace"))
            self.tokens.update(tokens)
            if b"generateApiKeyToken" in request.body:
                self.minted.update(tokens)
            return answer

        return super()._around(request, noted)


# One run of the matrix

MAIN = "import sys\nfrom provisioner.cli import main\nsys.exit(main())\n"
HURRIED = """
from provisioner.runtime.cancellation import Cancellation
now, sleep = Cancellation.now, Cancellation.sleep
Cancellation.now = lambda self: 10 * now(self)
Cancellation.sleep = lambda self, seconds: sleep(self, seconds / 10)
"""
"""Waits are a tenth, by a clock that runs as fast: nobody counts the seconds here."""

ENVIRONMENTS = dict(zip(("alpha", "bravo", "delta"), Dialect, strict=True))
CREDENTIALS = ("email", "session_token", "token")
LEVELS = ("debug", "info", "warning", "error")
VENDORS = ("vault", "aws", "github", "gitlab", "kubernetes")


@dataclass(frozen=True)
class Row:
    """What one run meets; numbers are turned on for each environment and sink.

    Attributes:
        fault: of `FAULTS`, of the first step of the first environment.
        trouble: of `TROUBLES`, of the first sink of the first environment; None for none at all.
        refused: the vendor whose address nobody listens at, by its number in `VENDORS`; beyond
            them none.
    """

    number: int
    fault: int
    trouble: int | None
    refused: int
    credential: int
    format: str
    log_format: str
    level: str

    def faults(self, environment: str) -> dict[str, Fault]:
        """The fault of each step."""
        turn = self.fault + 5 * [*ENVIRONMENTS].index(environment)
        return {step: FAULTS[(turn + n) % len(FAULTS)] for n, step in enumerate(STEPS)}

    def trouble_of(self, environment: str, kind: str) -> Trouble:
        if self.trouble is None:
            return "none"
        turn = self.trouble + 2 * [*ENVIRONMENTS].index(environment) + ALL_KINDS.index(kind)
        return TROUBLES[turn % len(TROUBLES)]

    def credential_of(self, environment: str) -> str:
        turn = self.credential + [*ENVIRONMENTS].index(environment)
        kind = CREDENTIALS[turn % len(CREDENTIALS)]
        # A key may not make keys there.
        return "email" if kind == "token" and environment == "delta" else kind


def rows() -> list[Row]:
    if FULL:
        product = itertools.product(
            range(len(FAULTS)), range(6), range(6), range(3), ("text", "json"), ("text", "json"),
            LEVELS,
        )  # fmt: skip
        return [Row(number, *one) for number, one in enumerate(product)]
    formats = ("text", "json")
    return [
        Row(
            n,
            n,
            n // 3,
            n + n // 6,
            n // 2,
            formats[n % 2],
            formats[n // 2 % 2],
            LEVELS[n % 4 * (n // 4 % 2)],
        )
        for n in range(len(FAULTS))
    ]


def pieces() -> list[list[Row]]:
    """The rows in as many parts as make good use of two cores, most of whose time is waiting."""
    return [rows()[number::PIECES] for number in range(PIECES)]


def test_the_rows_meet_every_pair_that_they_promise() -> None:
    """Each fault at each step on each dialect; each trouble of each sink, in each format."""
    faults = {
        (environment, step, fault)
        for row in rows()
        for environment in ENVIRONMENTS
        for step, fault in row.faults(environment).items()
    }
    assert len(faults) == len(ENVIRONMENTS) * len(STEPS) * len(FAULTS)
    for names in (("format",), ("log_format",)):
        troubles = {
            (kind, row.trouble_of(environment, kind), *(getattr(row, name) for name in names))
            for row in rows()
            for environment in ENVIRONMENTS
            for kind in ALL_KINDS
        }
        assert len(troubles) == len(ALL_KINDS) * len(TROUBLES) * 2
    assert {row.refused for row in rows()} >= set(range(len(VENDORS)))
    assert {row.level for row in rows()} == set(LEVELS)
    used = {(env, row.credential_of(env)) for row in rows() for env in ENVIRONMENTS}
    assert len(used) == len(ENVIRONMENTS) * len(CREDENTIALS) - 1


SEEING = """cat /proc/$$/cmdline /proc/$PPID/cmdline >> seen-cmdline
cat /proc/$$/environ >> seen-environ
"""
ECHOING = "tee /dev/stderr; exit 3"


@dataclass
class Stage:
    """One row set up: three servers, all sinks, and a project that knows them.

    Attributes:
        secrets: all that must not be seen, by now.
    """

    row: Row
    root: Path
    aws: Aws | None
    stack: ExitStack
    project: Project = field(init=False)
    laboratories: dict[str, Witnessed] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    plans: list[AtEachStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.project = Project(self.root)
        for name in ("home", "tmp"):
            (self.root / name).mkdir()
        told = self.root / "told"
        told.mkdir()
        self.project.environ |= {
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(told / "outputs"),
            "GITHUB_STEP_SUMMARY": str(told / "summary"),
            "PROVISION_EVENTS": str(told / "events"),
            "PROVISION_REPORT": " ".join(f"{form}={told / form}" for form in ("json", "markdown")),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PROXY_KEY": HEADER,
            "EMAIL": EMAIL,
            "PASSWORD": PASSWORD,
        }
        self.fixed |= {EMAIL, PASSWORD, HEADER, NEIGHBOUR}
        (self.root / "secrets").mkdir(mode=0o700)
        (self.root / "secrets" / "keys.env").write_text(f"NEIGHBOUR={NEIGHBOUR}\n")
        (self.root / "secrets" / "no-json").write_text(f'{{"neighbour": "{NEIGHBOUR}"')
        self._open_sinks()
        self._open_servers()

    def name(self, kind: str, environment: str) -> str:
        return f"svc-{kind}-{environment}-{self.row.number}"

    def items(self, kind: str, environment: str) -> list[Item]:
        trouble = self.row.trouble_of(environment, kind)
        if kind == "command":
            script = ECHOING if trouble in ("denied", "echo") else STORE
            check = 'tee /dev/stderr; exec cat "$0"' if trouble == "lost" else 'cat "$0"'
            return [Command(self.root, SEEING + script, check).item]
        if kind == "json" and trouble == "denied":
            return [{"file": "secrets/no-json", "format": "json"}]
        if kind == "dotenv" and trouble in ("denied", "broken"):
            return [{"file": f"secrets/keys.env/{environment}"}]
        return [self.places[kind].item]

    def _open_sinks(self) -> None:
        for kind in ALL_KINDS:
            if kind == "aws" and self.aws is not None:
                self.places[kind] = self.aws
            else:
                self.places[kind] = place(kind, self.stack, self.root)
            one = self.places[kind]
            self.fixed |= {*one.secrets}
            troubles = {
                environment: self.row.trouble_of(environment, kind) for environment in ENVIRONMENTS
            }
            if kind in VENDORS:
                refused = VENDORS.index(kind) == self.row.refused % 6
                one.redirect(self._gate(troubles, refused=refused))
            self.project.environ |= one.environ

    def _gate(self, troubles: Mapping[str, Trouble], *, refused: bool) -> Callable[[str], str]:
        def through(url: str) -> str:
            with ExitStack() as gone:
                gate = (gone if refused else self.stack).enter_context(Gate(url, troubles))
            return gate.url

        return through

    def _open_servers(self) -> None:
        environments, keys = {}, {}
        for environment, dialect in ENVIRONMENTS.items():
            laboratory = self.stack.enter_context(Witnessed(dialect))
            self.laboratories[environment] = laboratory
            sandbox = laboratory.sandbox
            user = sandbox.user()
            sandbox.put_user(dataclasses.replace(user, email=EMAIL, password=PASSWORD))
            session, token = f"SESSION_{environment}", f"TOKEN_{environment}"
            self.project.environ |= {session: sandbox.session_token(), token: sandbox.api_token()}
            self.fixed |= {self.project.environ[session], self.project.environ[token]}
            auths = {
                "email": {"email": "${EMAIL}", "password": "${PASSWORD}"},
                "session_token": {"session_token": f"${{{session}}}"},
                "token": {"token": f"${{{token}}}"},
            }
            environments[environment] = {
                "url": laboratory.url,
                "auth": auths[self.row.credential_of(environment)],
                "headers": {"X-Proxy-Key": "${PROXY_KEY}"},
                "limits": {"timeout": "3s"},
                **({} if dialect is Dialect.LEGACY else {"role": "Admin"}),
            }
            keys[environment] = [
                (self.name(kind, environment), self.items(kind, environment)) for kind in ALL_KINDS
            ]
        self.project.write(environments, keys)

    def meet_faults(self) -> None:
        for environment, laboratory in self.laboratories.items():
            plan = AtEachStep(self.row.faults(environment))
            self.plans.append(plan)
            laboratory.use(plan)

    def run(self, *arguments: str, script: str | None = None) -> tuple[int, dict[str, bytes]]:
        """Runs a command; its exit code, and all places at which a secret could be seen."""
        process = self.project.start(*arguments, script=script)
        with Onlooker(process) as onlooker:
            out, err = process.communicate(timeout=240)
        places = {"stdout": out.encode(), "stderr": err.encode()}
        places["command lines"] = b"\n".join(onlooker.seen)
        own = {part for one in self.places.values() for part in one.own} | {"seen-environ"}
        for file in self.root.rglob("*"):
            if file.is_file() and file.relative_to(self.root).parts[0] not in own:
                places[str(file)] = file.read_bytes()
        return process.returncode, places

    @property
    def minted(self) -> set[str]:
        return {token for one in self.laboratories.values() for token in one.minted}

    @property
    def secrets(self) -> set[str]:
        given = {token for one in self.laboratories.values() for token in one.tokens}
        return self.fixed | given

    def delivered(self) -> set[str]:
        """The kinds of sinks that hold a token that was minted in this row."""
        minted = self.minted
        return {
            kind
            for kind in ALL_KINDS
            for environment in ENVIRONMENTS
            if self.places[kind].held(self.name(kind, environment)) in minted
        }

    def not_in_environments(self) -> list[tuple[str, str]]:
        """Minted tokens in what programs inherited, where the given credentials do stand."""
        seen = self.root / "seen-environ"
        inherited = seen.read_bytes() if seen.exists() else b""
        given = {self.project.environ[name].encode() for name in self.project.environ}
        for value in given:
            inherited = inherited.replace(value, b"")
        return leaks({"inherited variables": inherited}, self.minted)


def play(row: Row, root: Path, aws: Aws) -> tuple[list[tuple[str, str]], set[str], set[str]]:
    """Plays a row: an apply in the midst of it all, and a plan after it."""
    with ExitStack() as stack:
        shared = _another(aws)
        stage = Stage(row, root, shared, stack)
        found: list[tuple[str, str]] = []
        other = {"text": "json", "json": "text"}
        for command, level, format_, log_format in (
            ("apply", "debug", row.format, row.log_format),
            ("plan", row.level, other[row.format], other[row.log_format]),
        ):
            stage.meet_faults()
            code, places = stage.run(
                command, "--format", format_, "--log-format", log_format, "--log-level", level,
                script=HURRIED + MAIN,
            )  # fmt: skip
            assert code in (0, 4), (row, code, places["stderr"].decode()[-4000:])
            found += leaks(places, stage.secrets)
        found += stage.not_in_environments()
        met = {step for plan in stage.plans for step in plan.met}
        assert stage.minted, row
        return found, stage.delivered(), met


def _another(aws: Aws) -> Aws:
    """The same AWS by another address, since its stand-in is one for the process."""
    import copy

    another = copy.copy(aws)
    another.environ = dict(aws.environ)
    return another


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with ExitStack() as stack:
        yield Aws(stack, tmp_path_factory.mktemp("aws"))


@pytest.mark.parametrize("piece", range(PIECES))
def test_no_run_shows_a_secret_whatever_fails(piece: int, tmp_path: Path, aws: Aws) -> None:
    """Over every sink, dialect, format and log level, with faults at every step."""
    played = pieces()[piece]
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(lambda row: play(row, tmp_path / f"row-{row.number}", aws), played))
    assert [(row, found) for row, (found, *_) in zip(played, ends, strict=True) if found] == []
    assert set().union(*(delivered for _, delivered, _ in ends)) == set(ALL_KINDS)
    assert set().union(*(met for *_, met in ends)) == set(STEPS)


# The search is able to find


CALM = Row(0, 0, None, 5, 0, "text", "text", "debug")
TALKATIVE = "import logging\nlogging.getLogger('botocore').setLevel = lambda level: None\n"
BLIND = {
    "masks nothing": "from provisioner.secret import _Known\n"
    "_Known.mask = lambda self, text, shortest: text\n",
    "knows nothing": "from provisioner.secret import _Known\n"
    "_Known.add = lambda self, value: None\n",
}


@pytest.mark.parametrize("blind", BLIND)
def test_a_run_that_masks_nothing_is_found_out(blind: str, tmp_path: Path, aws: Aws) -> None:
    """Without the mask the libraries' own debug log shows tokens, and the search finds them."""
    with ExitStack() as stack:
        stage = Stage(CALM, tmp_path / "row", _another(aws), stack)
        script = TALKATIVE + BLIND[blind] + MAIN
        code, places = stage.run("apply", "--log-level", "debug", script=script)
        assert code == 0
        shown = {secret for where, secret in leaks(places, stage.secrets) if where == "stderr"}
        assert shown & stage.minted


def test_a_library_that_tells_what_it_reads_is_found_out(tmp_path: Path, aws: Aws) -> None:
    """Boto3's debug log shows what a sink holds before anybody can mask it, so it is kept quiet."""
    with ExitStack() as stack:
        stage = Stage(CALM, tmp_path / "row", _another(aws), stack)
        assert stage.run("apply")[0] == 0
        assert "aws" in stage.delivered()
        _, places = stage.run("plan", "--log-level", "debug", script=TALKATIVE + MAIN)
        assert {secret for _, secret in leaks(places, stage.secrets)} & stage.minted
        _, places = stage.run("plan", "--log-level", "debug")
        assert leaks(places, stage.secrets) == []


@pytest.mark.parametrize(
    "written",
    [
        "{0}",
        "x{1}",
        "token={2}&a=b",
        '{{"token": "{3}"}}',
    ],
)
@pytest.mark.parametrize("secret", ["a.token-like_canary~5f1c", PASSWORD])
def test_the_search_finds_a_secret_however_it_is_written(written: str, secret: str) -> None:
    """Plain, in base64 at each offset, URL-encoded and escaped as in JSON."""
    for before in ("", "a", "ab"):
        inner = base64.b64encode(f"{before}{secret}zz".encode()).decode()
        text = written.format(secret, inner, quote(secret, safe=""), json.dumps(secret)[1:-1])
        assert leaks({"there": text.encode()}, [secret]) == [("there", secret)]
    assert leaks({"there": b"nothing of it"}, [secret]) == []


def test_the_search_finds_a_secret_in_a_command_line_of_a_child() -> None:
    """Also for as long as the child lives, and not a moment more."""
    secret = "argument-canary-5f1c"
    script = f"import subprocess; subprocess.run(['sh', '-c', 'read x', '{secret}'])"
    process = subprocess.Popen([sys.executable, "-c", "exec(input())"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process, Onlooker(process) as onlooker:
        process.stdin.write(f"{script}\n".encode())
        process.stdin.flush()
        assert onlooker.wait(secret.encode())
        process.stdin.close()
    assert leaks({"lines": b"\n".join(onlooker.seen)}, [secret])


# Bugs

BUGS = {
    "the credential": "provisioner.reconcile.connection.connect",
    "the sign-in": "provisioner.twenty.auth.Session._post",
    "the check of a token": "provisioner.execution.deliver.good",
    "the write to a file": "provisioner.sinks.file.FileSink.write",
    "the write to a vendor": "provisioner.sinks.http.Api.call",
    "the environment": "provisioner.execution.execute.Execution.run",
    "the report": "provisioner.cli.execute.show_result",
}
FAIL = """
import importlib
def fail(*given, **named):
    told = [one.reveal() if hasattr(one, "reveal") else repr(one) for one in given]
    told += [os.environ["PASSWORD"], os.environ["SESSION_delta"]]
    try:
        raise KeyError(*told)
    except KeyError as error:
        raise RuntimeError(str(told)) from error
import os
path, _, name = {where!r}.rpartition(".")
try:
    owner = importlib.import_module(path)
except ModuleNotFoundError:
    path, _, kind = path.rpartition(".")
    owner = getattr(importlib.import_module(path), kind)
assert callable(getattr(owner, name))
setattr(owner, name, fail)
"""


@pytest.mark.parametrize("where", BUGS)
def test_a_bug_in_the_middle_shows_no_secret(where: str, tmp_path: Path, aws: Aws) -> None:
    """An exception full of secrets ends with code 1 and a traceback without any value."""
    with ExitStack() as stack:
        stage = Stage(CALM, tmp_path / "row", _another(aws), stack)
        for format_ in ("text", "json"):
            code, places = stage.run(
                "apply", "--log-level", "debug", "--format", format_,
                script=FAIL.format(where=BUGS[where]) + MAIN,
            )  # fmt: skip
            assert code == 1, places["stderr"]
            assert b"This is a bug in provision" in places["stderr"]
            assert b"RuntimeError" in places["stderr"]
            assert leaks(places, stage.secrets) == []
