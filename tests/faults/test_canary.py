"""No secret is ever shown: real runs with faults, whose output is searched for every secret.

A row of the matrix is one process with four environments, one per dialect, each with a key for
every kind of sink; the newer kinds have one only in one environment of a row. Each environment has
its own fault at each kind of step, and each sink its own fault. The search covers stdout, stderr,
all remaining files except those of the sinks, and the command lines of the process and its
children. An encrypted file is no exception.

`CANARY=full` runs the product of faults, sink faults, credentials, formats and log levels instead
of rows that cover each pair of fault and step and each pair of sink fault and sink. It takes hours.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.parse import quote, quote_plus, urlsplit

import pytest
from delivering import (
    ALL_KINDS,
    LIBRARIES,
    STORE,
    TOKEN,
    Aws,
    AwsService,
    Command,
    Item,
    Project,
    Sops,
    Ssm,
    sink_fixture,
    writes_token,
)
from laboratory import FAULTS, Fault, Laboratory, is_write
from sandbox_control import Dialect, Request, Response, signs_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trustme import CA

AwsServices: TypeAlias = dict[str, AwsService]
"""The services of AWS by the kinds of their sinks."""

FULL = os.environ.get("CANARY") == "full"
SHARES = 2

EMAIL = "canary+ü5f1c@example.com"
PASSWORD = 'pass "wörd"/canary+%7e2b'
HEADER = 'header-canary/19d+"z"=='
NEIGHBOUR = "neighbour-canary-61aa0c"
TOKEN_PREFIX = b"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ"
"""The start of every token of the embedded Twenty, also of a truncated one."""


# The search


def encodings(secret: str) -> set[bytes]:
    """Return a secret in all encodings that may appear in a stream, a file or a command line."""
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
    """Return the places that contain a secret, each with the secret."""
    expected = [(secret, form) for secret in {*secrets} for form in encodings(secret)]
    found = {
        (place, secret)
        for place, text in places.items()
        for secret, form in expected
        if form in text
    }
    found |= {(place, "a token") for place, text in places.items() if TOKEN_PREFIX in text}
    return sorted(found)


class CommandLineWatcher:
    """A thread that reads the command lines of a process and its descendants until it ends."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self._pid = process.pid
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch)
        self.lines: set[bytes] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def wait(self, text: bytes) -> bool:
        """Wait until a command line has contained this text."""
        with self._changed:
            return self._changed.wait_for(lambda: any(text in entry for entry in self.lines), 30)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            lines = set(self._lines(self._pid))
            with self._changed:
                self.lines |= lines
                self._changed.notify_all()

    def _lines(self, pid: int) -> Iterator[bytes]:
        folder = Path("/proc", str(pid))
        try:
            yield (folder / "cmdline").read_bytes()
            children = [(entry / "children").read_text() for entry in (folder / "task").iterdir()]
        except OSError:  # the process has ended
            return
        for child in " ".join(children).split():
            yield from self._lines(int(child))


# The faults of sinks

SinkFault = Literal["none", "denied", "broken", "echo", "lost", "redirect"]
SINK_FAULTS: tuple[SinkFault, ...] = ("none", "denied", "broken", "echo", "lost", "redirect")
"""No fault; a 403 and a 500 that echo the request; a 500 only for writes; a write that is done
but whose connection breaks; a redirect."""


class FaultyProxy:
    """A proxy for a vendor's server with faults for requests about some keys.

    Args:
        upstream: the vendor's address.
        sink_faults: the faults by a part of the key's name.
        spared: a part of a request that never meets a fault.
        authority: who certifies the vendor and this proxy; None for connections without TLS.
    """

    def __init__(
        self,
        upstream: str,
        sink_faults: Mapping[str, SinkFault],
        spared: str | None,
        authority: CA | None = None,
    ) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._sink_faults = sink_faults
        self._spared = spared
        self._authority = authority
        self._http = _ProxyServer(("127.0.0.1", 0), _Handler)
        self._http.proxy = self
        if authority is not None:
            self._http.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(self._http.context)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.5,))

    @property
    def url(self) -> str:
        scheme = "http" if self._authority is None else "https"
        return f"{scheme}://localhost:{self._http.server_port}"

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection to the vendor."""
        if self._authority is None:
            return http.client.HTTPConnection(self._upstream, timeout=30)
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return http.client.HTTPSConnection(self._upstream, timeout=30, context=context)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread(target=self._http.shutdown).start()
        with suppress(OSError), socket.create_connection(self._http.server_address, 10):
            """Wake the server, which looks rarely whether it shall stop."""
        self._thread.join(10)
        self._http.server_close()

    def sink_fault(self, text: str) -> SinkFault:
        """Return the fault for a request with this path and body."""
        if self._spared is not None and self._spared in text:
            return "none"
        found = [entry for part, entry in self._sink_faults.items() if part in text.lower()]
        return found[0] if found else "none"


class _ProxyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: FaultyProxy
    context: ssl.SSLContext | None = None

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = -1
    server: _ProxyServer

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sink_fault = self.server.proxy.sink_fault(self.path + raw.decode(errors="replace"))
        is_write = writes_token(self.command, self.headers, self.path)
        if sink_fault in ("echo", "lost") and not is_write:
            sink_fault = "none"
        echoed = f"{self.command} {self.path}\n{self.headers}".encode() + raw
        match sink_fault:
            case "none":
                self.answer(*self.forward(raw))
            case "lost":
                self.forward(raw)
                self.close_connection = True
            case "redirect":
                place = f"{self.server.proxy.url}/elsewhere?{quote(raw[:900])}"
                self.answer(307, {"Location": place}, echoed)
            case "denied":
                self.answer(403, {}, echoed)
            case "broken" | "echo":
                self.answer(500, {}, echoed)

    def forward(self, raw: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = self.server.proxy.connect()
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
    if signs_in(request.body):
        return "sign-in"
    if b"generateApiKeyToken" in request.body:
        return "mint"
    if is_write(request):
        return "create"
    return "prove" if b"currentWorkspace" in request.body else "look"


class AtEachStep:
    """A plan that injects the fault of each step into its first and fourth request."""

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


class RecordingLaboratory(Laboratory):
    """A laboratory that records every token that its server issues."""

    def __init__(self, dialect: Dialect) -> None:
        self.tokens: set[str] = set()
        self.minted: set[str] = set()
        super().__init__(dialect)

    def _around(self, request: Request, answer_request: Callable[[Request], Response]) -> Response:
        def record_tokens(request: Request) -> Response:
            answer = answer_request(request)
            tokens = TOKEN.findall(answer.body.decode(errors="replace"))
            self.tokens.update(tokens)
            if b"generateApiKeyToken" in request.body:
                self.minted.update(tokens)
            return answer

        return super()._around(request, record_tokens)


class Hook:
    """A server that refuses whatever it is told after a run, and writes it to a file."""

    def __init__(self, heard: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with heard.open("ab") as file:
                    file.write(body)
                self.send_error(404, self.path)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


# One run of the matrix

HOOK_PATH = "/services/T0/B0/path-canary-of-a-webhook"
MAIN = "import sys\nfrom provisioner.cli import main\nsys.exit(main())\n"
FAST_CLOCK = """
from provisioner.runtime.cancellation import Cancellation
now, sleep = Cancellation.now, Cancellation.sleep
Cancellation.now = lambda self: 10 * now(self)
Cancellation.sleep = lambda self, seconds: sleep(self, seconds / 10)
"""
"""Makes all waits ten times shorter, on a clock that is ten times faster."""

ENVIRONMENTS = dict(zip(("alpha", "bravo", "delta", "echo"), Dialect, strict=True))
CREDENTIALS = ("email", "session_token", "token")
LEVELS = ("debug", "info", "warning", "error")
VENDORS = ("vault", "aws", "github", "gitlab", "kubernetes", "ssm", "gcp", "azure", "n8n")
REFUSED = (*VENDORS[:5], "", *VENDORS[1:5], "", *VENDORS[:1], *VENDORS[5:])
"""The vendor that refuses connections in each row; the newer ones do not in the first twelve."""

SPARSE = () if FULL else ("ssm", "gcp", "azure", "sops", "n8n")
"""The kinds of sinks that have a key only in one environment of a row.

Any twelve rows that follow each other have each of their faults in each format.
"""


@dataclass(frozen=True)
class Row:
    """The parameters of one run; the indexes rotate with each environment and sink.

    Attributes:
        fault: the index in `FAULTS` for the first step of the first environment.
        sink_fault: the index in `SINK_FAULTS` for the first sink of the first environment; None
            for no sink faults.
        refused: the vendor that refuses connections; empty for none.
    """

    number: int
    fault: int
    sink_fault: int | None
    refused: str
    credential: int
    format: str
    log_format: str
    level: str

    def faults(self, environment: str) -> dict[str, Fault]:
        """Return the fault of each step."""
        turn = self.fault + 5 * [*ENVIRONMENTS].index(environment)
        return {step: FAULTS[(turn + n) % len(FAULTS)] for n, step in enumerate(STEPS)}

    def sink_fault_of(self, environment: str, kind: str) -> SinkFault:
        if self.sink_fault is None:
            return "none"
        turn = self.sink_fault + 2 * [*ENVIRONMENTS].index(environment)
        if kind in SPARSE:
            # Rows 0 and 3 of each four differ in both formats, and so do rows 1 and 2.
            turn = 2 * (self.number // 4) + (self.number + 1) // 2 % 2
        return SINK_FAULTS[(turn + ALL_KINDS.index(kind)) % len(SINK_FAULTS)]

    def kinds_of(self, environment: str) -> list[str]:
        """Return the kinds of sinks that have a key in an environment."""
        turn = self.number + [*ENVIRONMENTS].index(environment)
        return [
            kind
            for number, kind in enumerate(ALL_KINDS)
            if kind not in SPARSE or (turn + number) % len(ENVIRONMENTS) == 0
        ]

    @property
    def heals(self) -> bool:
        """Return whether the second command is an apply on servers without a fault."""
        return self.number // 2 % 2 == 0

    def refuses(self, kind: str) -> bool:
        """Return whether the vendor of this kind of sink refuses connections."""
        return kind == self.refused

    def sound(self) -> set[tuple[str, str]]:
        """Return the kinds of sinks that have no fault, each with the environment."""
        return {
            (kind, environment)
            for environment in ENVIRONMENTS
            for kind in self.kinds_of(environment)
            if not self.refuses(kind) and self.sink_fault_of(environment, kind) == "none"
        }

    def credential_of(self, environment: str) -> str:
        turn = self.credential + [*ENVIRONMENTS].index(environment)
        kind = CREDENTIALS[turn % len(CREDENTIALS)]
        # An API key cannot create keys there.
        return "email" if kind == "token" and environment in ("delta", "echo") else kind


def rows() -> list[Row]:
    if FULL:
        product = itertools.product(
            range(len(FAULTS)), range(6), (*VENDORS, ""), range(3), ("text", "json"),
            ("text", "json"), LEVELS,
        )  # fmt: skip
        return [Row(number, *entry) for number, entry in enumerate(product)]
    formats = ("text", "json")
    return [
        Row(
            n,
            n,
            n // 3,
            REFUSED[n % len(REFUSED)],
            n // 2,
            formats[n % 2],
            formats[n // 2 % 2],
            LEVELS[n % 4 * (n // 4 % 2)],
        )
        for n in range(len(FAULTS))
    ]


def shares() -> list[list[Row]]:
    """Return the rows in two shares, one for each core; most of their time is waiting."""
    return [rows()[number::SHARES] for number in range(SHARES)]


def test_the_rows_cover_every_pair() -> None:
    """The rows have each fault at each step on each dialect, and each sink fault in each format."""
    faults = {
        (environment, step, fault)
        for row in rows()
        for environment in ENVIRONMENTS
        for step, fault in row.faults(environment).items()
    }
    assert len(faults) == len(ENVIRONMENTS) * len(STEPS) * len(FAULTS)
    for names in (("format",), ("log_format",)):
        sink_faults = {
            (kind, row.sink_fault_of(environment, kind), *(getattr(row, name) for name in names))
            for row in rows()
            for environment in ENVIRONMENTS
            for kind in row.kinds_of(environment)
            if not row.refuses(kind)
        }
        assert len(sink_faults) == len(ALL_KINDS) * len(SINK_FAULTS) * 2
    assert {row.refused for row in rows()} == {*VENDORS, ""}
    # `play` asserts that such a sink gets its token.
    assert {kind for row in rows() if row.heals for kind, _ in row.sound()} == set(ALL_KINDS)
    sinks = {(env, kind) for row in rows() for env in ENVIRONMENTS for kind in row.kinds_of(env)}
    assert len(sinks) == len(ENVIRONMENTS) * len(ALL_KINDS)
    assert {row.level for row in rows()} == set(LEVELS)
    used = {(env, row.credential_of(env)) for row in rows() for env in ENVIRONMENTS}
    assert len(used) == len(ENVIRONMENTS) * len(CREDENTIALS) - 2


RECORDING = """cat /proc/$$/cmdline /proc/$PPID/cmdline >> seen-cmdline
cat /proc/$$/environ >> seen-environ
"""
ECHOING = "tee /dev/stderr; exit 3"
FAULTY_SOPS = """
read -r fault < fault
value=
[ "$1" != set ] || value=$(cat)
case $fault,$value in
    echo,*provision-check*|lost,*provision-check*) fault=none ;;
esac
run() { printf %s "$value" | "$SOPS" "$@"; }
case $fault,$1 in
    denied,*) printf %s "$value" | tee /dev/stderr; exit 128 ;;
    broken,*) run "$@" | tee /dev/stderr; exit 1 ;;
    echo,set) printf %s "$value" | tee /dev/stderr; exit 1 ;;
    lost,set) run "$@"; run decrypt --input-type json "$7" | tee /dev/stderr; exit 1 ;;
    redirect,decrypt) run "$@" | tee /dev/stderr; echo "and more" ;;
    *) run "$@" ;;
esac
"""
"""A program sops that reads its fault from a file beside the encrypted one, in which it runs.

It meets the faults of a write when it gets a token, and not the placeholder of a check.
"""


@dataclass
class Stage:
    """The setup of one row: three servers, all sinks, and a project that uses them.

    Attributes:
        secrets: all secrets so far, which must not be shown.
    """

    row: Row
    root: Path
    aws: AwsServices
    stack: ExitStack
    project: Project = field(init=False)
    laboratories: dict[str, RecordingLaboratory] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    plans: list[AtEachStep] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.project = Project(self.root, preload=LIBRARIES)
        for name in ("home", "tmp"):
            (self.root / name).mkdir()
        outputs = self.root / "told"
        outputs.mkdir()
        self.project.environ |= {
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(outputs / "outputs"),
            "GITHUB_STEP_SUMMARY": str(outputs / "summary"),
            "PROVISION_EVENTS": str(outputs / "events"),
            "PROVISION_REPORT": " ".join(
                f"{form}={outputs / form}" for form in ("json", "markdown")
            ),
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
        sink_fault = self.row.sink_fault_of(environment, kind)
        if kind == "command":
            script = ECHOING if sink_fault in ("denied", "echo") else STORE
            check = 'tee /dev/stderr; exec cat "$0"' if sink_fault == "lost" else 'cat "$0"'
            return [Command(self.root, RECORDING + script, check).item]
        if kind == "json" and sink_fault == "denied":
            return [{"file": "secrets/no-json", "format": "json"}]
        if kind == "dotenv" and sink_fault in ("denied", "broken"):
            return [{"file": f"secrets/keys.env/{environment}"}]
        return [self.places[kind].item]

    def _open_sinks(self) -> None:
        for kind in ALL_KINDS:
            if kind in self.aws:
                entry = self.aws[kind]
            elif kind == "sops":
                entry = Sops(self.root, ENVIRONMENTS, FAULTY_SOPS)
            else:
                entry = sink_fixture(kind, self.stack, self.root)
            self.places[kind] = entry
            self.fixed |= {*entry.secrets}
            sink_faults = {
                environment: self.row.sink_fault_of(environment, kind)
                for environment in ENVIRONMENTS
            }
            if kind in VENDORS:
                refused = self.row.refuses(kind)
                entry.redirect(self._proxy(sink_faults, entry.authority, refused=refused))
            if isinstance(entry, Sops):
                for file, sink_fault in zip(entry.files, sink_faults.values(), strict=True):
                    file.with_name("fault").write_text(f"{sink_fault}\n")
            for environment in ENVIRONMENTS:
                entry.make_place(self.name(kind, environment))
            self.project.environ |= entry.environ

    def _proxy(
        self, sink_faults: Mapping[str, SinkFault], authority: CA | None, *, refused: bool
    ) -> Callable[[str], str]:
        def redirect_through(url: str) -> str:
            with ExitStack() as closed:
                # An engine of Vault is looked up once, by the path of one key, for all keys.
                spared = "/sys/internal/ui/mounts/" if self.row.heals else None
                proxy = (closed if refused else self.stack).enter_context(
                    FaultyProxy(url, sink_faults, spared, authority)
                )
            return proxy.url

        return redirect_through

    def _open_servers(self) -> None:
        environments, keys = {}, {}
        for environment, dialect in ENVIRONMENTS.items():
            laboratory = self.stack.enter_context(RecordingLaboratory(dialect))
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
                (self.name(kind, environment), self.items(kind, environment))
                for kind in self.row.kinds_of(environment)
            ]
        hook = self.stack.enter_context(Hook(self.root / "heard"))
        self.project.environ["HOOK"] = hook.url + HOOK_PATH
        self.fixed.add(HOOK_PATH)
        notify: list[Item] = [{"slack": "${HOOK}"}, {"webhook": "${HOOK}"}]
        notify += [{"command": ["sh", "-c", "cat >> told-a-program"]}]
        self.project.write(environments, keys, notify)

    def meet_faults(self) -> None:
        for environment, laboratory in self.laboratories.items():
            plan = AtEachStep(self.row.faults(environment))
            self.plans.append(plan)
            laboratory.use(plan)

    def run(self, *arguments: str, script: str | None = None) -> tuple[int, dict[str, bytes]]:
        """Run a command; return its exit code and all places where a secret could be shown."""
        process = self.project.start(*arguments, script=script)
        with CommandLineWatcher(process) as watcher:
            out, err = process.communicate(timeout=240)
        places = {"stdout": out.encode(), "stderr": err.encode()}
        places["command lines"] = b"\n".join(watcher.lines)
        own = {part for entry in self.places.values() for part in entry.token_paths} | {
            "seen-environ"
        }
        for file in self.root.rglob("*"):
            if file.is_file() and file.relative_to(self.root).parts[0] not in own:
                places[str(file)] = file.read_bytes()
        return process.returncode, places

    @property
    def minted(self) -> set[str]:
        return {token for entry in self.laboratories.values() for token in entry.minted}

    @property
    def secrets(self) -> set[str]:
        secrets_ = {token for entry in self.laboratories.values() for token in entry.tokens}
        return self.fixed | secrets_

    def heal(self) -> None:
        for laboratory in self.laboratories.values():
            laboratory.heal()

    def delivered(self) -> set[tuple[str, str]]:
        """Return the kinds of sinks that contain a token minted in this row, and whose it is."""
        minted = self.minted
        return {
            (kind, environment)
            for environment in ENVIRONMENTS
            for kind in self.row.kinds_of(environment)
            if self.places[kind].stored(self.name(kind, environment)) in minted
        }

    def leaked_variables(self) -> list[tuple[str, str]]:
        """Return minted tokens in the variables of child processes, which have our credentials."""
        environ_file = self.root / "seen-environ"
        inherited = environ_file.read_bytes() if environ_file.exists() else b""
        secrets_ = {self.project.environ[name].encode() for name in self.project.environ}
        for value in secrets_:
            inherited = inherited.replace(value, b"")
        return leaks({"inherited variables": inherited}, self.minted)


def play(
    row: Row, root: Path, aws: AwsServices
) -> tuple[list[tuple[str, str]], set[str], set[str]]:
    """Run a row: an apply with faults, and a plan with faults or an apply on healed servers.

    Returns: the leaks, the kinds of sinks that received a token, and the steps with a fault.
    """
    with ExitStack() as stack:
        shared = _second_address(aws)
        stage = Stage(row, root, shared, stack)
        leaks_: list[tuple[str, str]] = []
        other = {"text": "json", "json": "text"}
        for command, level, format_, log_format in (
            ("apply", "debug", row.format, row.log_format),
            (
                "apply" if row.heals else "plan",
                row.level,
                other[row.format],
                other[row.log_format],
            ),
        ):
            if row.heals and stage.plans:
                stage.heal()
            else:
                stage.meet_faults()
            code, places = stage.run(
                command, "--format", format_, "--log-format", log_format, "--log-level", level,
                script=FAST_CLOCK + MAIN,
            )  # fmt: skip
            assert code in (0, 4), (row, code, places["stderr"].decode()[-4000:])
            leaks_ += leaks(places, stage.secrets)
        leaks_ += stage.leaked_variables()
        met = {step for plan in stage.plans for step in plan.met}
        assert stage.minted, row
        assert (stage.root / "heard").exists(), row
        assert (stage.root / "told-a-program").exists(), row
        delivered = stage.delivered()
        shown = places["stdout"].decode() + places["stderr"].decode()
        assert not row.heals or row.sound() <= delivered, (row, row.sound() - delivered, shown)
        return leaks_, {kind for kind, _ in delivered}, met


def _second_address(aws: AwsServices) -> AwsServices:
    """Return the same AWS with its own variables; the fake AWS exists once per process."""
    import copy

    others = {kind: copy.copy(service) for kind, service in aws.items()}
    for other in others.values():
        other.environ = dict(other.environ)
    return others


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServices]:
    folder = tmp_path_factory.mktemp("aws")
    with ExitStack() as stack:
        yield {"aws": Aws(stack, folder), "ssm": Ssm(stack, folder)}


@pytest.mark.parametrize("share", range(SHARES))
def test_no_run_shows_a_secret_whatever_fails(share: int, tmp_path: Path, aws: AwsServices) -> None:
    """No run shows a secret, over all sinks, dialects, formats, log levels and faults."""
    rows_ = shares()[share]
    with ThreadPoolExecutor(4) as threads:
        results = list(
            threads.map(lambda row: play(row, tmp_path / f"row-{row.number}", aws), rows_)
        )
    assert [(row, found) for row, (found, *_) in zip(rows_, results, strict=True) if found] == []
    delivered = set().union(*(kinds for _, kinds, _ in results))
    assert delivered >= set(ALL_KINDS) - set(SPARSE)
    assert set().union(*(met for *_, met in results)) == set(STEPS)


# The search finds leaks


NO_FAULTS = Row(0, 0, None, "", 0, "text", "text", "debug")
VERBOSE_BOTOCORE = "import logging\nlogging.getLogger('botocore').setLevel = lambda level: None\n"
BROKEN_MASKS = {
    "masks nothing": "from provisioner.secret import _Known\n"
    "_Known.mask = lambda self, text, shortest: text\n",
    "knows nothing": "from provisioner.secret import _Known\n"
    "_Known.add = lambda self, value: None\n",
}


@pytest.mark.parametrize("broken_mask", BROKEN_MASKS)
def test_the_search_finds_tokens_of_a_run_without_masks(
    broken_mask: str, tmp_path: Path, aws: AwsServices
) -> None:
    """Without masks, the debug logs of libraries show tokens, and the search finds them."""
    with ExitStack() as stack:
        stage = Stage(NO_FAULTS, tmp_path / "row", _second_address(aws), stack)
        script = VERBOSE_BOTOCORE + BROKEN_MASKS[broken_mask] + MAIN
        code, places = stage.run("apply", "--log-level", "debug", script=script)
        assert code == 0
        found = {secret for place, secret in leaks(places, stage.secrets) if place == "stderr"}
        assert found & stage.minted


def test_the_search_finds_tokens_in_a_librarys_debug_log(tmp_path: Path, aws: AwsServices) -> None:
    """Boto3's debug log shows the content of sinks before it can be masked, so it is disabled."""
    with ExitStack() as stack:
        stage = Stage(NO_FAULTS, tmp_path / "row", _second_address(aws), stack)
        assert stage.run("apply")[0] == 0
        assert stage.delivered() == NO_FAULTS.sound()
        _, places = stage.run("plan", "--log-level", "debug", script=VERBOSE_BOTOCORE + MAIN)
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
def test_the_search_finds_a_secret_in_any_encoding(written: str, secret: str) -> None:
    """The search finds plain, URL-encoded and JSON-escaped secrets, and base64 at each offset."""
    for before in ("", "a", "ab"):
        packed = base64.b64encode(f"{before}{secret}zz".encode()).decode()
        text = written.format(secret, packed, quote(secret, safe=""), json.dumps(secret)[1:-1])
        assert leaks({"there": text.encode()}, [secret]) == [("there", secret)]
    assert leaks({"there": b"nothing of it"}, [secret]) == []


def test_the_search_finds_a_secret_in_a_command_line_of_a_child() -> None:
    """The search finds a secret in the command line of a running child process."""
    secret = "argument-canary-5f1c"
    script = f"import subprocess; subprocess.run(['sh', '-c', 'read x', '{secret}'])"
    process = subprocess.Popen([sys.executable, "-c", "exec(input())"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process, CommandLineWatcher(process) as watcher:
        process.stdin.write(f"{script}\n".encode())
        process.stdin.flush()
        assert watcher.wait(secret.encode())
        process.stdin.close()
    assert leaks({"lines": b"\n".join(watcher.lines)}, [secret])


# Bugs

BUGS = {
    "the credential": "provisioner.reconcile.connection.connect",
    "the sign-in": "provisioner.twenty.auth.Session._post",
    "the check of a token": "provisioner.execution.token_flow.token_matches",
    "the write to a file": "provisioner.sinks.file._File.write",
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


@pytest.mark.parametrize("place", BUGS)
def test_a_bug_in_the_middle_shows_no_secret(place: str, tmp_path: Path, aws: AwsServices) -> None:
    """An exception full of secrets gives exit code 1 and a traceback without any value."""
    with ExitStack() as stack:
        stage = Stage(NO_FAULTS, tmp_path / "row", _second_address(aws), stack)
        for format_ in ("text", "json"):
            code, places = stage.run(
                "apply", "--log-level", "debug", "--format", format_,
                script=FAIL.format(where=BUGS[place]) + MAIN,
            )  # fmt: skip
            assert code == 1, places["stderr"]
            assert b"This is a bug in provision" in places["stderr"]
            assert b"RuntimeError" in places["stderr"]
            assert leaks(places, stage.secrets) == []
