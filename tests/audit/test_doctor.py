"""The checks of credentials, permissions, clocks, limits and sinks, which only read."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, get_args

import pytest
from builders import desired_key, environment_with, limits_with
from jsonschema import Draft202012Validator
from sandbox_control import API_KEYS_FLAG, Dialect, Response, Sandbox, json_answer

from provisioner import schemas
from provisioner.audit.check import Check, CheckName, Diagnosis
from provisioner.audit.doctor import Doctor
from provisioner.cli import main
from provisioner.model.environment import ApiToken, Environment, SessionToken, SignIn
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox_control import Request

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address

A_UUID = "20202020-1c25-4d02-bf25-6aeccf7ea419"
CHECKS = ("reached", "generation", "credential", "keys", "roles", "writes", "clock", "limits")


@pytest.fixture
def examine(hurried, tmp_path) -> Callable[..., Diagnosis]:
    """Return a function that checks one environment, with file sinks in the test's folder."""

    def examine_(environment: Environment, *keys: DesiredKey, only: tuple[str, ...] = ()) -> Any:
        stop = hurried()
        open_sink = SinkRegistry(tmp_path, {}, stop).open
        doctor = Doctor(WorkspaceOpener(tmp_path, stop), open_sink, ThreadExecutor(2), stop)
        [found] = doctor.examine((environment,), {environment.name: keys}, only)
        if doctor.internal_error is not None:
            raise doctor.internal_error
        return found

    return examine_


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """Yield the address of a port that nobody listens on or can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def hanging() -> Iterator[socket.socket]:
    """Yield a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def file(name: str, variable: str = "TOKEN") -> FileAddress:
    return FileAddress(name, variable)


def put(folder: Path, name: str, token: str, variable: str = "TOKEN") -> FileAddress:
    """Write a token to a file sink, as `apply` does."""
    SinkRegistry(folder, {}, Cancellation()).open(file(name, variable)).write(Secret(token))
    return file(name, variable)


def of(found: Diagnosis, check: CheckName) -> Any:
    """Return the only check with this name."""
    [only] = [one for one in found.checks if one.check == check]
    return only


def failures(found: Diagnosis) -> list[tuple[str, str]]:
    return [(one.check, one.code) for one in found.checks if one.status == "failed"]


def warnings(found: Diagnosis) -> list[str]:
    return [one.check for one in found.checks if one.status == "warning"]


# Workspaces


@pytest.mark.parametrize("credential", ["session", "token", "sign-in"])
@pytest.mark.parametrize("dialect", Dialect)
def test_a_valid_environment_passes_all_checks_except_with_an_api_key_on_2(
    serve, examine, dialect, credential
) -> None:
    """Every server and every credential is tried; on 2.x an API key cannot write keys."""
    served = serve(dialect, session_seconds=30 * 86_400.0)
    served.sandbox.seed(["a", "b"])
    served.sandbox.seed(["old"], expires_at="2020-01-01T00:00:00.000Z")
    found = examine(served.environment(credential=served.credential(credential), role="Admin"))
    assert tuple(one.check for one in found.checks) == (*CHECKS, "sinks")
    fails = dialect.needs_session_to_write and credential == "token"
    assert failures(found) == ([("writes", "session_required")] if fails else [])
    assert warnings(found) == []
    assert found.failed == fails
    assert found.generation == ("legacy" if dialect is Dialect.LEGACY else "core")
    release = {Dialect.LEGACY: "up to 1.2", Dialect.CORE_1: "1.x", Dialect.CORE: "2.x"}[
        dialect.recorded
    ]
    assert of(found, "generation").message.endswith(f"Twenty {release}.")
    kinds = {"session": "Session token", "token": "API key token"}
    assert of(found, "credential").message.startswith(kinds.get(credential, "Email and password"))
    assert served.sandbox.workspace_id in of(found, "credential").message
    own = credential == "token"  # its key is in the workspace too
    assert of(found, "keys").message == f"{3 + own} keys listed, {2 + own} live."
    if dialect is not Dialect.LEGACY:
        assert "'Admin'" in of(found, "roles").message
    assert "hosted Twenty allows 50 to 100" in of(found, "limits").message


@pytest.mark.parametrize("dialect", Dialect)
def test_the_embedded_twenty_passes_all_checks(tmp_path, examine, dialect) -> None:
    """It needs no credential, and its short session is not a warning."""
    found = examine(environment_with(url=f"sandbox:{dialect}", role="Admin"))
    assert all(one.status == "ok" for one in found.checks)
    assert of(found, "reached").message == "The embedded Twenty responds."


def test_a_wrong_password_fails_the_credential_check(serve, examine) -> None:
    """The server was reached; the remedy names the variables."""
    served = serve()
    wrong = SignIn(Secret(served.sandbox.email), Secret("not the password"))
    found = examine(served.environment(credential=wrong))
    assert [one.check for one in found.checks] == ["reached", "credential", "sinks"]
    assert failures(found) == [("credential", "sign_in_failed")]
    assert "Check the variables" in of(found, "credential").remedy
    assert found.generation is None


@pytest.mark.parametrize("dialect", Dialect)
def test_a_refused_token_fails_the_credential_check(serve, examine, dialect) -> None:
    """The code says whether it is expired, revoked or forged."""
    served = serve(dialect)
    [gone] = served.sandbox.seed(["gone"], revoked_at="2026-01-01T00:00:00.000Z")
    tokens = {
        "credential_expired": served.sandbox.session_token(seconds=-60),
        "credential_revoked": served.sandbox.token_of(gone),
        "credential_invalid": served.sandbox.api_token()[:-4] + "AAAA",
    }
    for code, token in tokens.items():
        found = examine(served.environment(credential=ApiToken(Secret(token))))
        assert of(found, "reached").status == "ok"
        assert failures(found) == [("credential", code)]


def test_sinks_are_checked_even_if_the_server_is_unreachable(
    tmp_path, examine, refusing_url
) -> None:
    """A failure of the server does not hide that of a sink."""
    (tmp_path / "not-a-folder").write_text("")
    shop = environment_with(url=refusing_url, credential=ApiToken(Secret("a.b.c")))
    found = examine(
        shop, desired_key("a", file("not-a-folder/a.env")), desired_key("b", file("b.env"))
    )
    assert [check for check, _ in failures(found)] == ["reached", "sinks"]
    assert of(found, "reached").code == "unreachable"
    assert of(found, "reached").remedy == "Check `url`, the network and that the server is running."
    assert Check("sinks", "ok", "1 sink OK.") in found.checks
    assert of(found, "tokens").status == "not_checked"
    assert "workspace cannot be read" in of(found, "tokens").message


def test_a_server_other_than_twenty_fails_the_generation_check(scripted, answer, examine) -> None:
    """A web page answers, but is not taken for Twenty."""
    server = scripted(*[answer(200, "<html>", Content_Type="text/html")] * 8)
    shop = environment_with(url=server.url, credential=ApiToken(Secret("a.b.c")))
    found = examine(shop)
    assert failures(found) == [("generation", "unexpected_answer")]
    assert of(found, "reached").status == "ok"


def test_a_workspace_other_than_the_pinned_one_fails_the_credential_check(serve, examine) -> None:
    """No request is sent, so there is no check of the server; the right pin is reported."""
    served = serve()
    session = served.credential()
    found = examine(served.environment(credential=session, workspace=A_UUID))
    assert [one.check for one in found.checks] == ["credential", "sinks"]
    assert failures(found) == [("credential", "workspace_mismatch")]
    assert served.journal == []
    pinned = served.environment(credential=session, workspace=served.sandbox.workspace_id)
    assert "as pinned" in of(examine(pinned), "credential").message


@pytest.mark.parametrize("dialect", [Dialect.CORE_1, Dialect.CORE])
def test_hidden_roles_are_a_warning_and_a_label_is_a_failure(serve, examine, dialect) -> None:
    """An id works; the release is known; 2.x later than 2.21 needs the permission for roles."""
    served = serve(dialect)
    served.sandbox.permit("Admin", API_KEYS_FLAG)
    sign_in = served.credential("sign-in")
    found = examine(served.environment(credential=sign_in, role=A_UUID))
    assert not found.failed
    later = ["writes"] if dialect is Dialect.CORE else []
    assert warnings(found) == ["roles", *later]
    assert of(found, "generation").message.endswith("2.x." if dialect is Dialect.CORE else "1.x.")
    found = examine(served.environment(credential=sign_in, role="Admin"))
    assert failures(found) == [("roles", "role_unknown")]


def test_a_session_without_the_permission_for_roles_cannot_create_on_the_newest(
    serve, examine
) -> None:
    """It lists everything, and the check of writes names the right that creating needs."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.permit("Admin", API_KEYS_FLAG)
    found = examine(served.environment(credential=served.credential("sign-in"), role="Admin"))
    assert failures(found) == [("writes", "permission_denied")]
    assert "(ROLES)" in of(found, "writes").message
    assert not served.writes()


def test_a_member_of_legacy_cannot_mint(serve, examine) -> None:
    """A read shows it that needs the same permission as minting."""
    served = serve(Dialect.LEGACY)
    session = SessionToken(Secret(served.sandbox.session_token("member")))
    found = examine(served.environment(credential=session))
    assert ("writes", "permission_denied") in failures(found)
    assert "minting" in of(found, "writes").message
    assert not served.writes()


@pytest.mark.parametrize("dialect", [Dialect.CORE_1, Dialect.CORE])
def test_a_role_without_the_permission_for_keys_is_a_failure(serve, examine, dialect) -> None:
    """2.x refuses the list of keys; 1.10 allows it by REST and refuses writes."""
    served = serve(dialect)
    served.sandbox.permit("Admin")
    found = examine(served.environment(credential=served.credential("sign-in")))
    place: CheckName = "keys" if dialect is Dialect.CORE else "writes"
    assert failures(found) == [(place, "permission_denied")]
    assert "API keys" in of(found, place).remedy


@pytest.mark.parametrize(
    ("role", "code"),
    [("Nobody", "role_unknown"), ("Member", "role_not_assignable"), ("Admin", None), (None, None)],
)
def test_the_role_of_the_environment_must_be_assignable_to_keys(serve, examine, role, code) -> None:
    """Other roles are failures, and the message lists the assignable ones."""
    served = serve()
    found = examine(served.environment(credential=served.credential("sign-in"), role=role))
    assert failures(found) == ([] if code is None else [("roles", code)])
    assert "'Integrations'" in str(of(found, "roles"))


def test_an_ambiguous_label_and_no_assignable_role_are_failures(serve, examine) -> None:
    """The label could mean either role; without an assignable role no key can be created."""
    from sandbox_control import role

    served = serve()
    served.sandbox.put_role(role("Admin", api_keys=True))
    shop = served.environment(credential=served.credential("sign-in"), role="Admin")
    found = examine(shop)
    assert failures(found) == [("roles", "role_unknown")]
    assert "several" in of(found, "roles").message
    for one in served.sandbox.roles():
        one.wire["canBeAssignedToApiKeys"] = False
        served.sandbox.put_role(one)
    assert failures(examine(shop)) == [("roles", "role_not_assignable")]


@pytest.mark.parametrize(
    "body",
    [
        {"errors": [{"message": "Query too curious"}]},
        {"errors": [{"message": "Query too curious"}], "data": None},
        {"errors": [{"message": "Entity performing the request does not have permission"}]},
    ],
)
def test_an_unknown_release_leaves_open_whether_an_api_key_can_write(serve, examine, body) -> None:
    """Nothing is guessed from an unknown refusal."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"{getRoles{universalIdentifier}}" in request.body:
            return json_answer(200, body)
        return inner(request)

    served = serve(Dialect.CORE_1, around=around)
    found = examine(served.environment(credential=served.credential("token")))
    assert warnings(found) == ["writes"]
    assert "do not show" in of(found, "generation").message
    assert warnings(examine(served.environment(credential=served.credential("sign-in")))) == []


@pytest.mark.parametrize("body", [{"errors": [{"message": "Query too curious"}]}, []])
def test_an_unknown_permission_is_not_guessed(serve, examine, body) -> None:
    """If the question itself is refused, it is unknown whether keys can be written.

    It is asked only if the list of keys, by REST, leaves it open.
    """

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"{apiKeys{id}}" in request.body:
            return json_answer(200, body)
        return inner(request)

    served = serve(around=around)
    served.sandbox.permit("Admin", API_KEYS_FLAG)
    found = examine(served.environment(credential=served.credential("sign-in")))
    assert warnings(found) == ["roles", "writes"]
    assert of(found, "writes").message.startswith("Unknown")


def test_a_token_that_expires_soon_is_a_warning(serve, examine) -> None:
    """13 days are a warning, 15 are not, and a sign-in never is."""
    served = serve(Dialect.CORE_1)
    [own] = served.sandbox.seed(["own"])
    for days, warned in ((13, ["credential"]), (15, [])):
        token = Secret(served.sandbox.token_of(own, seconds=days * 86_400))
        assert warnings(examine(served.environment(credential=ApiToken(token)))) == warned
        session = Secret(served.sandbox.session_token(seconds=days * 86_400))
        assert warnings(examine(served.environment(credential=SessionToken(session)))) == warned
    assert warnings(examine(served.environment(credential=served.credential("sign-in")))) == []


def test_the_claims_of_a_credential_decide_its_kind(serve, examine) -> None:
    """A session under `token` can write on 2.x, an API key under `session_token` cannot."""
    served = serve(Dialect.CORE, session_seconds=30 * 86_400.0)
    session, token = served.sandbox.session_token(), served.sandbox.api_token()
    assert not examine(served.environment(credential=ApiToken(Secret(session)))).failed
    assert examine(served.environment(credential=SessionToken(Secret(token)))).failed


def test_a_credential_without_claims_works(scripted, answer, examine):
    """Its expiry and workspace are reported as unknown."""
    server = scripted(legacy_page(answer), answer(200, '{"data":{"__typename":"Query"}}'))
    shop = environment_with(url=server.url, credential=ApiToken(Secret("opaque-token")))
    found = examine(shop)
    assert not found.failed
    message = of(found, "credential").message
    assert "expiry unknown" in message
    assert "workspace unknown" in message


def legacy_page(answer: Callable[..., bytes], **headers: str) -> bytes:
    page = {"data": {"apiKeys": []}, "pageInfo": {"hasNextPage": False}, "totalCount": 0}
    return answer(200, json.dumps(page), **headers)


@pytest.mark.parametrize(
    ("seconds", "direction"), [(-95, "ahead of"), (-40, None), (40, None), (95, "behind")]
)
def test_a_clock_that_is_off_by_more_than_a_minute_is_a_failure(
    scripted, answer, examine, seconds, direction
) -> None:
    """The `Date` of the server decides in both directions; a guard would refuse a run."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    harmless = answer(200, '{"data":{"__typename":"Query"}}', Date=date)
    server = scripted(legacy_page(answer, Date=date), harmless)
    shop = environment_with(url=server.url, credential=ApiToken(Secret("opaque-token")))
    clock = of(examine(shop), "clock")
    assert clock.status == ("ok" if direction is None else "failed")
    if clock.status == "failed":
        assert clock.code == "clock_off"
        assert f" s {direction} the server's" in clock.message


def test_a_server_without_a_date_is_a_warning(scripted, answer, examine) -> None:
    """If a proxy removes it, this machine's clock decides which keys are live."""
    server = scripted(legacy_page(answer), answer(200, '{"data":{"__typename":"Query"}}'))
    shop = environment_with(url=server.url, credential=ApiToken(Secret("opaque-token")))
    assert warnings(examine(shop)) == ["clock"]


@pytest.mark.parametrize(("declared", "warned"), [(600, True), (100, False), (None, False)])
def test_a_declared_limit_above_the_servers_own_is_a_warning(
    serve, examine, declared, warned
) -> None:
    """The remedy has the right number."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        found = inner(request)
        return Response(found.status, found.body, (*found.headers, ("X-RateLimit-Limit", "100")))

    served = serve(around=around)
    limits = limits_with(requests_per_minute=declared)
    found = examine(served.environment(credential=served.credential("sign-in"), limits=limits))
    check = of(found, "limits")
    assert "the server allows 100." in check.message
    assert (check.status == "warning") == warned
    if warned:
        assert check.remedy == "Set `requests_per_minute` to 100 or less."


# Sinks and tokens


@pytest.mark.parametrize("dialect", Dialect)
def test_the_token_of_each_sink_is_verified(serve, examine, tmp_path, dialect) -> None:
    """Good, empty, dead, foreign, forged and invalid ones have different results."""
    served = serve(dialect)
    sandbox = served.sandbox
    names = ["good", "empty", "dead", "other", "forged", "noise", "session"]
    ids = dict(zip(names, sandbox.seed(names), strict=True))
    [dead] = sandbox.seed(["dead"], revoked_at="2026-01-01T00:00:00.000Z")
    forged = sandbox.token_of(ids["forged"])
    values = {
        "good": sandbox.token_of(ids["good"]),
        "dead": sandbox.token_of(dead),
        "other": sandbox.token_of(ids["good"]),
        "forged": forged[:-6] + ("AAAAAA" if forged[-6:-1] != "AAAAA" else "BBBBBB"),
        "noise": "a-hand-written-word",
        "session": sandbox.session_token(),
    }
    for name, token in values.items():
        put(tmp_path, f"{name}.env", token)
    keys = [desired_key(name, file(f"{name}.env")) for name in [*names, "not-made-yet"]]
    found = examine(served.environment(credential=served.credential("sign-in")), *keys)
    assert of(found, "sinks") == Check("sinks", "ok", "8 sinks OK.")
    tokens = [one for one in found.checks if one.check == "tokens"]
    assert tokens[0] == Check("tokens", "ok", "1 token for live keys accepted.")
    assert tokens[1].status == "warning"
    assert tokens[1].message.startswith("1 sink without a token")
    failed = {
        one.remedy.split("--redeliver ")[1].split("`")[0]: one
        for one in tokens[2:]
        if one.status == "failed"
    }
    codes = {name: one.code for name, one in failed.items()}
    assert codes == {
        "--only dead --only other": "token_dead",
        "--only forged": "token_refused",
        "--only noise --only session": "token_invalid",
    }
    remedy = "Run `provision apply -e shop --redeliver --only forged` to replace it."
    assert failed["--only forged"].remedy == remedy
    shown = repr(found.checks)
    assert all(token not in shown for token in values.values())


def test_an_expired_token_of_a_live_key_is_found(serve, examine, tmp_path) -> None:
    """The server refuses it."""
    served = serve(Dialect.CORE_1)
    [live] = served.sandbox.seed(["a"])
    address = put(tmp_path, "a.env", served.sandbox.token_of(live, seconds=-60))
    found = examine(
        served.environment(credential=served.credential("token")), desired_key("a", address)
    )
    assert failures(found) == [("tokens", "token_refused")]


def test_failures_of_the_same_cause_are_one_check_with_their_number(
    serve, examine, tmp_path
) -> None:
    """200 sinks are below a file instead of a folder, and 9 keys have an invalid token."""
    served = serve()
    served.sandbox.seed(f"noisy-{number}" for number in range(9))
    (tmp_path / "wall").write_text("")
    blocked = [desired_key(f"key-{n}", file(f"wall/{n}.env")) for n in range(200)]
    invalid = [
        desired_key(f"noisy-{n}", put(tmp_path, "all.env", "noise-of-a-kind", f"N{n}"))
        for n in range(9)
    ]
    sign_in = served.credential("sign-in")
    found = examine(served.environment(credential=sign_in), *blocked, *invalid)
    sinks, tokens = (one for one in found.checks if one.status == "failed")
    assert (sinks.check, tokens.check) == ("sinks", "tokens")
    assert str(file("wall/0.env")) in sinks.message
    assert sinks.message.endswith("The same applies to 199 more.")
    assert tokens.message.endswith("The same applies to 8 more.")
    assert "all tokens" in tokens.remedy
    only = examine(served.environment(credential=sign_in), *blocked, *invalid, only=("noisy-[12]",))
    [failure] = [one for one in only.checks if one.status == "failed"]
    assert "--only noisy-1 --only noisy-2" in failure.remedy


def test_a_name_with_special_characters_is_quoted_in_the_remedy(serve, examine, tmp_path) -> None:
    """The command can be copied, and selects only that key."""
    served = serve()
    served.sandbox.seed(["nightly [*] it"])
    address = put(tmp_path, "a.env", "noise-of-a-kind")
    shop = served.environment(credential=served.credential("sign-in"))
    [failure] = [
        one for one in examine(shop, desired_key("nightly [*] it", address)).checks
        if one.status == "failed"
    ]  # fmt: skip
    arguments = shlex.split(failure.remedy.split("`")[1])
    assert fnmatchcase("nightly [*] it", arguments[-1])
    assert not fnmatchcase("nightly * it", arguments[-1])


def test_a_server_error_does_not_mean_that_the_token_is_bad(serve, examine, tmp_path) -> None:
    """The check reports the server's error."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        return json_answer(500, {}) if b"currentWorkspace" in request.body else inner(request)

    served = serve(Dialect.CORE, around=around)
    [live] = served.sandbox.seed(["a"])
    address = put(tmp_path, "a.env", served.sandbox.token_of(live))
    found = examine(
        served.environment(credential=served.credential("sign-in")), desired_key("a", address)
    )
    assert failures(found) == [("tokens", "server_error")]
    assert "--redeliver" not in only_failure(found).remedy


def only_failure(found: Diagnosis) -> Check:
    [failure] = [one for one in found.checks if one.status == "failed"]
    return failure


def test_sinks_and_tokens_are_checked_within_the_limit_of_the_environment(
    serve, examine, tmp_path
) -> None:
    """`limits.parallel` checks run at once, and no more."""
    met = threading.Barrier(3)

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"currentWorkspace" in request.body:
            met.wait(20)
        return inner(request)

    served = serve(around=around)
    ids = served.sandbox.seed(f"k{n}" for n in range(12))
    addresses = [put(tmp_path, f"{n}.env", served.sandbox.token_of(i)) for n, i in enumerate(ids)]
    keys = [desired_key(f"k{n}", address) for n, address in enumerate(addresses)]
    limits = limits_with(parallel=3)
    found = examine(served.environment(credential=served.credential(), limits=limits), *keys)
    assert failures(found) == []
    assert served.most_in_flight() == 3


def test_a_write_only_command_passes_and_a_missing_one_fails(serve, examine) -> None:
    """The content of the first is unknown and sends no request; the second takes no token."""
    served = serve()
    served.sandbox.seed(["a"])
    shop = served.environment(credential=served.credential("sign-in"))
    found = examine(shop, desired_key("a", CommandAddress((sys.executable, "-V"))))
    message = "1 token not checked: the sinks are write-only."
    assert of(found, "tokens") == Check("tokens", "not_checked", message)
    assert not found.failed
    missing = examine(shop, desired_key("a", CommandAddress(("no-such-program-anywhere",))))
    assert [check for check, _ in failures(missing)] == ["sinks"]


# No changes, and stops


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("credential", ["session", "token", "sign-in"])
def test_it_writes_nothing(serve, examine, tmp_path, dialect, credential) -> None:
    """No request can change the workspace, and no file is created or changed."""
    served = serve(dialect)
    [a, _] = served.sandbox.seed(["a", "b"])
    opened = served.credential(credential)
    good = put(tmp_path, "secrets/a.env", served.sandbox.token_of(a))
    noise = put(tmp_path, "secrets/b.env", "noise-of-a-kind")
    before, rows = contents(tmp_path / "secrets"), served.sandbox.keys()
    served.journal.clear()
    found = examine(
        served.environment(credential=opened),
        desired_key("a", good, file("secrets/not-there.env")),
        desired_key("b", noise, file("new-folder/b.env")),
    )
    assert ("tokens", "token_invalid") in failures(found)
    assert len(served.journal) >= 3
    assert served.writes() == []
    assert served.sandbox.keys() == rows
    assert contents(tmp_path / "secrets") == before
    assert not (tmp_path / "new-folder").exists()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    }


def test_a_bug_in_one_environment_does_not_stop_the_others(serve, hurried, tmp_path) -> None:
    """It is a failure of that environment, and is kept for the end of the run."""
    served = serve()
    stop = hurried()

    def broken_opener(address: Address) -> Any:
        raise KeyError(str(address))

    shop = served.environment(credential=served.credential())
    other = environment_with(name="other", url="sandbox:")
    doctor = Doctor(WorkspaceOpener(tmp_path, stop), broken_opener, ThreadExecutor(2), stop)
    first, second = doctor.examine((shop, other), {"shop": (desired_key("a", file("a.env")),)})
    assert failures(first) == [("reached", "internal_error")]
    assert not second.failed
    assert isinstance(doctor.internal_error, KeyError)


def test_a_stop_does_not_wait_for_a_hanging_server(hanging, tmp_path) -> None:
    """The environment is reported as stopped at once."""
    stop = Cancellation()
    shop = environment_with(url=url_of(hanging), credential=ApiToken(Secret("a.b.c")))

    def stop_once_connected() -> None:
        with hanging.accept()[0] as connection:
            stop.request()
            ended.wait(20)
            connection.shutdown(socket.SHUT_RDWR)

    ended = threading.Event()
    stopper = threading.Thread(target=stop_once_connected)
    stopper.start()
    doctor = Doctor(
        WorkspaceOpener(tmp_path, stop),
        SinkRegistry(tmp_path, {}, stop).open,
        ThreadExecutor(1),
        stop,
    )
    [found] = doctor.examine((shop,), {})
    assert failures(found) == [("reached", "stopped")]
    ended.set()
    stopper.join(20)


def test_no_sink_is_checked_after_a_stop(serve, tmp_path) -> None:
    """The other sinks are reported as stopped."""
    served = serve()
    stop = Cancellation()
    opened: list[Address] = []
    sinks = SinkRegistry(tmp_path, {}, stop)

    def open_sink(address: Address) -> Any:
        opened.append(address)
        stop.request()
        return sinks.open(address)

    from provisioner.audit.sink_checks import SinkChecks

    shop = served.environment(limits=limits_with(parallel=1))
    keys = [desired_key(f"k{n}", file(f"{n}.env")) for n in range(5)]
    checks = list(SinkChecks(shop, open_sink, stop).checks(keys))
    assert opened == [file("0.env")]
    assert [one.code for one in checks if one.status == "failed"] == ["stopped"]


# The command


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function for `provision doctor` in this process: exit code, stdout, stderr."""

    def run_(*arguments: object) -> tuple[int, str, str]:
        code = main(["doctor", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Return a function that writes files of a manifests directory."""

    def write_(**files: str) -> Path:
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)
        return folder

    return write_


DEV = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
KEYS = "version: 1\nenvironment: dev\ndefaults: {expires: 90d, deliver: [{file: 's/{name}.env'}]}\n"


def document(out: str) -> Any:
    found = json.loads(out)
    Draft202012Validator(schemas.load("doctor")).validate(found)
    return found


def test_valid_manifests_exit_with_0_and_a_failure_with_4(run, write, tmp_path) -> None:
    """JSON follows the schema, text has a mark in each line; -q hides what is ok."""
    folder = write(environments=DEV, keys=KEYS + "keys: [{name: a}]\n")
    assert main(["apply", "-m", str(folder), "-q"]) == 0
    code, out, _ = run("-m", folder, "--format", "json")
    [dev] = document(out)["environments"]
    assert (code, dev["environment"], dev["generation"]) == (0, "dev", "core")
    assert {one["status"] for one in dev["checks"]} == {"ok"}
    assert [one["check"] for one in dev["checks"]] == [*CHECKS, "sinks", "tokens"]
    assert run("-m", folder, "-q")[:2] == (0, "")
    code, out, _ = run("-m", folder)
    assert (code, out.splitlines()[-1]) == (0, "Doctor: 1 environment, 10 ok.")
    (tmp_path / "s" / "a.env").write_text("A=changed-by-hand\n")
    code, out, _ = run("-m", folder, "--format", "json")
    [dev] = document(out)["environments"]
    assert code == 4
    [failure] = [one for one in dev["checks"] if one["status"] != "ok"]
    assert (failure["check"], failure["status"], failure["code"]) == (
        "tokens",
        "failed",
        "token_invalid",
    )
    code, out, _ = run("-m", folder, "-q")
    assert code == 4
    assert "  ! tokens" in out
    assert "  = " not in out
    assert "provision apply -e dev --redeliver --only a" in out
    assert run("-m", folder, "--only", "b")[0] == 0
    assert main(["apply", "-m", str(folder), "--redeliver", "--only", "a", "-q"]) == 0
    assert run("-m", folder)[0] == 0


def test_the_remedy_for_a_forged_token_works(run, write, tmp_path) -> None:
    """`plan` cannot see it, but doctor can; its command replaces the token."""
    folder = write(environments=DEV, keys=KEYS + "keys: [{name: a}]\n")
    assert main(["apply", "-m", str(folder), "-q"]) == 0
    place = tmp_path / "s" / "a.env"
    text = place.read_text()
    changed = "B" if text[-20] != "B" else "C"
    place.write_text(f"{text[:-20]}{changed}{text[-19:]}")
    code, out, err = run("-m", folder)
    assert (code, "token_refused" in out) == (4, True)
    assert text.partition("=")[2].strip() not in out + err
    assert main(["apply", "-m", str(folder), "--redeliver", "--only", "a", "-q"]) == 0
    assert run("-m", folder)[0] == 0


def test_with_invalid_manifests_only_the_servers_are_checked(run, write) -> None:
    """A warning says so; an invalid environments.yaml exits with 3."""
    folder = write(environments=DEV, keys="version: 1\nenvironment: dev\nkeys: [{name: a}]\n")
    code, out, _ = run("-m", folder, "--format", "json")
    [dev] = document(out)["environments"]
    assert code == 0
    warned = [one for one in dev["checks"] if one["status"] == "warning"]
    assert [(one["check"], one["remedy"]) for one in warned] == [
        ("sinks", "Run `provision validate` to list them.")
    ]
    code, out, _ = run("-m", write(environments="version: 1\n"), "--format", "json")
    assert (code, json.loads(out)["format"]) == (3, "provision/problems/v1")


def test_an_unreachable_environment_does_not_hide_another(
    run, write, serve, refusing_url, monkeypatch
) -> None:
    """Each has its own checks; -e leaves the others out; no credential is shown."""
    served = serve()
    token = served.sandbox.session_token()
    monkeypatch.setenv("GOOD", token)
    monkeypatch.setenv("EMAIL", served.sandbox.email)
    monkeypatch.setenv("WRONG", "not-the-password")
    folder = write(
        environments=f"""\
version: 1
environments:
  down: {{url: "{refusing_url}", auth: {{session_token: "${{GOOD}}"}}}}
  locked: {{url: "{served.sandbox.url}", auth: {{email: "${{EMAIL}}", password: "${{WRONG}}"}}}}
  fine: {{url: "{served.sandbox.url}", auth: {{session_token: "${{GOOD}}"}}, role: Admin}}
"""
    )
    code, out, err = run("-m", folder, "--format", "json")
    found = {one["environment"]: one for one in document(out)["environments"]}
    assert code == 4
    failed = {
        name: [one["code"] for one in part["checks"] if one["status"] == "failed"]
        for name, part in found.items()
    }
    assert failed == {"down": ["unreachable"], "locked": ["sign_in_failed"], "fine": []}
    assert found["down"]["generation"] is None
    for secret in (token, served.sandbox.email, "not-the-password"):
        assert secret not in out + err
    code, out, _ = run("-m", folder, "-e", "fine")
    assert code == 0
    assert "1 warning" in out
    assert "unreachable" not in out
    assert run("-m", folder, "-e", "fin")[0] == 64


def test_the_schema_has_the_checks_of_the_code() -> None:
    """The names in the schema are those in the code."""
    part = schemas.load("doctor")["properties"]["environments"]["items"]["properties"]["checks"]
    assert tuple(part["items"]["properties"]["check"]["enum"]) == get_args(CheckName)


def test_a_bug_is_reported_after_the_checks(run, write, monkeypatch, capsys) -> None:
    """It exits with 1, and prints everything that was found before."""
    from provisioner.audit import server_checks as doctor

    monkeypatch.setattr(doctor, "_clock", lambda _: 1 / 0)
    code = main(["doctor", "-m", str(write(environments=DEV))])
    out, err = capsys.readouterr()
    assert code == 1
    assert "internal_error" in out
    assert "Please report it" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_with_a_report(write, hanging, number, code) -> None:
    """It prints what it has, even while a server keeps it waiting."""
    folder = write(
        environments=f"version: 1\nenvironments:\n  slow: {{url: '{url_of(hanging)}', "
        "auth: {token: '${TOKEN}'}}\n"
    )
    command = [sys.executable, "-m", "provisioner", "doctor", "-m", str(folder)]
    with (
        subprocess.Popen(
            [*command, "--format", "json"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOKEN": "a.b.c"},
        ) as process,
        hanging.accept()[0],
    ):
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    [slow] = document(out)["environments"]
    assert process.returncode == code
    assert [one["code"] for one in slow["checks"]] == ["stopped"]


def test_it_reads_the_file_of_a_running_embedded_twenty(write, run, tmp_path) -> None:
    """It finds the keys of the process that serves the same file."""
    folder = write(environments=DEV)
    (tmp_path / ".provision").mkdir()
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed(["a", "b", "c"])
        assert "3 keys listed, 3 live." in run("-m", folder)[1]
        write(environments=DEV.replace("{", "{owns: ['[c-z]'], ignore: [b, c], "))
        ignored = "3 live, 2 ignored, 1 of them although `owns` matches too."
        assert ignored in run("-m", folder)[1]


def test_environments_that_share_a_workspace_fail(serve, hurried, tmp_path) -> None:
    """Each of the two has a failed check, and a third one has none."""
    served, other = serve(Dialect.CORE), serve(Dialect.CORE_1)
    one = replace(served.environment(), credential=served.credential())
    two = replace(one, name="twin")
    three = replace(other.environment(), name="third", credential=other.credential())
    stop = hurried()
    doctor = Doctor(
        WorkspaceOpener(tmp_path, stop),
        SinkRegistry(tmp_path, {}, stop).open,
        ThreadExecutor(3),
        stop,
    )
    found = doctor.examine((one, two, three), {})
    assert [("credential", "workspace_shared") in failures(part) for part in found] == [
        True, True, False,
    ]  # fmt: skip
