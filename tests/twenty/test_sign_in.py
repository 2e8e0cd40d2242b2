"""Sign-ins against the embedded Twenty: shared, with a second factor, refused, renewed, ended."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from builders import environment_with
from sandbox_control import Dialect, Sandbox, Settings, SignInRefusal, json_answer, signs_in

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import SignIn
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.executor import run_all
from provisioner.sandbox import Front
from provisioner.secret import Secret
from provisioner.twenty.answers import Answer
from provisioner.twenty.connect import connect
from provisioner.twenty.second_factor import code_at
from provisioner.twenty.sign_ins import PasswordCheck, SignIns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sandbox_control import Around, Exchange

    from provisioner.model.environment import Environment

TOTP = "JBSWY3DPEHPK3PXP"
CORES = [dialect for dialect in Dialect if dialect.keeps_core_keys]


@contextmanager
def closing_front() -> Iterator[Front]:
    front = Front()
    yield front
    front.stop()


class Fleet:
    """Workspaces of one server, each with its own origin, whose users are the same.

    Attributes:
        run: closes what a run opened.
    """

    def __init__(self, root: Path, sandboxes: ExitStack, run: ExitStack) -> None:
        self.root, self.run = root, run
        self.journal: list[Exchange] = []
        self.sandboxes: list[Sandbox] = []
        self._stack = sandboxes

    def start(
        self, count: int, dialect: Dialect = Dialect.CORE_NEWEST, around: Around | None = None
    ) -> None:
        for number in range(count):
            first = self.sandboxes[0] if self.sandboxes else None
            settings = Settings(origin=f"http://w{number}.localhost:3000")
            sandbox = self._stack.enter_context(
                Sandbox(
                    None,
                    dialect,
                    settings=settings,
                    beside=first,
                    journal=self.journal,
                    around=around,
                )
            )
            self.sandboxes.append(sandbox)
            if first is not None:
                sandbox.share_users(first)

    def environments(self) -> tuple[Environment, ...]:
        return tuple(
            environment_with(
                name=f"w{number}",
                url=one.url,
                origin=one.settings.origin,
                credential=SignIn(Secret(one.email), Secret(one.password)),
            )
            for number, one in enumerate(self.sandboxes)
        )

    def open(self, environments: tuple[Environment, ...], stop: Cancellation) -> list[Any]:
        """Return the workspaces of one run, opened side by side, or their errors."""
        opener = WorkspaceOpener(self.root, stop, environments=environments)

        def opened(environment: Environment) -> Any:
            try:
                return opener(environment, self.run)
            except WorkspaceError as error:
                return error

        return run_all(opened, environments, 16)

    def sent(self, mutation: str) -> int:
        return sum(f"{mutation}(".encode() in one.body for one in self.journal)


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    with ExitStack() as sandboxes, ExitStack() as run:
        yield Fleet(tmp_path, sandboxes, run)


@pytest.fixture
def stop(hurried) -> Cancellation:
    return hurried()


# One check of a password


@pytest.mark.parametrize(
    ("dialect", "count"), [(Dialect.CORE_NEWEST, 50), (Dialect.CORE, 4), (Dialect.CORE_1, 4)]
)
def test_one_check_of_the_password_opens_all_workspaces_of_a_server(
    fleet, stop, dialect, count
) -> None:
    """Each needs one more request, which exchanges the login token that the check lists."""
    fleet.start(count, dialect)
    opened = fleet.open(fleet.environments(), stop)
    assert sum(signs_in(one.body) for one in fleet.journal) == count + 1
    assert fleet.sent("signIn") == 1
    assert [one._client.claims().workspace for one in opened] == [
        one.workspace_id for one in fleet.sandboxes
    ]


def test_legacy_needs_one_request_more_to_find_its_name_of_a_field(fleet, stop) -> None:
    """The first check is refused before it runs, and the exchanges know the name."""
    fleet.start(4, Dialect.LEGACY)
    fleet.open(fleet.environments(), stop)
    assert (fleet.sent("signIn"), fleet.sent("getAuthTokensFromLoginToken")) == (2, 4)
    assert sum(signs_in(one.body) for one in fleet.journal) == 6


def test_a_workspace_of_its_own_is_signed_in_to_as_before(fleet, stop) -> None:
    """A check that nobody shares would only cost another way to fail."""
    fleet.start(1)
    [opened] = fleet.open(fleet.environments(), stop)
    assert opened.observe().workspace == fleet.sandboxes[0].workspace_id
    assert (fleet.sent("signIn"), fleet.sent("getLoginTokenFromCredentials")) == (0, 1)


def test_a_wrong_password_is_tried_once_for_all_workspaces(fleet, stop) -> None:
    """More would lock the user out; each environment has its own error."""
    fleet.start(5)
    environments = fleet.environments()
    for sandbox in fleet.sandboxes:
        sandbox.put_user(replace(sandbox.user(), password="another"))
    errors = fleet.open(environments, stop)
    assert [(one.code, one.message) for one in errors] == [
        ("sign_in_failed", f"w{n} refused the sign-in: the email or the password is wrong.")
        for n in range(5)
    ]
    assert len(fleet.journal) == 1


def test_a_workspace_that_the_check_does_not_show_is_signed_in_to_by_itself(fleet, stop) -> None:
    """So it gets its own reason, and the others are opened."""
    fleet.start(3)
    fleet.sandboxes[1].configure(refusal=SignInRefusal.PASSWORD_DISABLED)
    fleet.sandboxes[2].configure(refusal=SignInRefusal.NOT_A_MEMBER)
    opened, disabled, stranger = fleet.open(fleet.environments(), stop)
    assert opened.generation == "core"
    assert "does not allow signing in with a password" in disabled.message
    assert "not a member" in stranger.message
    assert fleet.sent("getLoginTokenFromCredentials") == 2


def test_a_second_factor_after_the_check_does_not_lead_to_another_sign_in(fleet, stop) -> None:
    """The password is right, and to send it again cannot help."""
    fleet.start(2)
    for sandbox in fleet.sandboxes:
        sandbox.configure(totp_secret=TOTP)
    errors = fleet.open(fleet.environments(), stop)
    assert ["demands a second factor" in one.message for one in errors] == [True, True]
    assert len(fleet.journal) == 3


def test_a_server_without_the_check_is_signed_in_to_as_before(fleet, stop) -> None:
    """Its answer to an unknown field is not taken for a refusal."""

    def without(request, answer):
        if b"signIn(" not in request.body:
            return answer(request)
        message = 'Cannot query field "signIn" on type "Mutation".'
        return json_answer(200, {"errors": [{"message": message}]})

    fleet.start(3, around=without)
    opened = fleet.open(fleet.environments(), stop)
    assert [one.generation for one in opened] == ["core"] * 3
    assert fleet.sent("getLoginTokenFromCredentials") == 3


def test_a_check_without_an_answer_fails_one_environment_only(fleet, stop) -> None:
    """The others do not ask again one after the other, but sign in by themselves."""

    def silent(request, answer):
        if b"signIn(" in request.body:
            raise ConnectionError
        return answer(request)

    fleet.start(4, around=silent)
    opened = fleet.open(fleet.environments(), stop)
    failed = [one.code for one in opened if isinstance(one, WorkspaceError)]
    assert failed == ["connection_lost"]
    assert fleet.sent("getLoginTokenFromCredentials") == 3


@pytest.mark.parametrize(
    ("urls", "checks"),
    [
        (("https://a.crm.example.com", "https://b.crm.example.com"), 1),
        (("http://a.localhost:3000", "http://b.localhost:3000"), 1),
        (("http://a.localhost:3000", "http://b.localhost:3001"), 0),
        (("https://crm.example.com", "https://crm.example.org"), 0),
        (("https://a.com", "https://b.com"), 0),
        (
            ("https://a.crm.example.com", "https://a.crm.example.com", "https://b.crm.example.com"),
            2,
        ),
    ],
)
def test_subdomains_may_belong_to_one_server(urls, checks) -> None:
    """Only one of them asks; an address that several environments have asks for itself."""
    asked = []
    credential = SignIn(Secret("e@x"), Secret("p"))
    environments = [environment_with(url=url, credential=credential) for url in urls]
    sign_ins = SignIns(Cancellation(), environments)
    for url in urls:
        same = SignIn(Secret("e@x"), Secret("p"))
        sign_ins.check(same, url, lambda url=url: asked.append(url) or Answer(200, None, ""))
        other = SignIn(Secret("e@x"), Secret("other"))
        assert sign_ins.check(other, url, pytest.fail) is None
    assert len(asked) == checks


def test_a_refusal_of_one_server_is_not_that_of_another(fleet, stop) -> None:
    """Two servers below one domain may have the same user with different passwords."""
    front = fleet.run.enter_context(closing_front())
    environments = []
    for name in ("first", "second"):
        sandbox = fleet.run.enter_context(Sandbox(None, front=front))
        password = "right" if name == "second" else "another"
        sandbox.put_user(replace(sandbox.user(), email="e@x", password=password))
        credential = SignIn(Secret("e@x"), Secret("right"))
        environments.append(environment_with(name=name, url=sandbox.url, credential=credential))
    opener = WorkspaceOpener(fleet.root, stop, environments=tuple(environments))
    with pytest.raises(WorkspaceError, match="first refused the sign-in"):
        opener(environments[0], fleet.run)
    assert opener(environments[1], fleet.run).generation == "core"


def test_environments_of_a_file_share_a_check(fleet, tmp_path, run, monkeypatch) -> None:
    """From environments.yaml on, with a second factor and origins of their own."""
    fleet.start(2)
    auth = {name: f"${{{name.upper()}}}" for name in ("email", "password", "totp")}
    environments = {
        one.name: {"url": one.url, "origin": one.origin, "auth": auth}
        for one in fleet.environments()
    }
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    document = {"version": 1, "environments": environments}
    (manifests / "environments.yaml").write_text(json.dumps(document))
    for sandbox in fleet.sandboxes:
        sandbox.configure(totp_secret=TOTP)
    monkeypatch.setenv("EMAIL", fleet.sandboxes[0].email)
    monkeypatch.setenv("PASSWORD", f"{fleet.sandboxes[0].password}\n")
    monkeypatch.setenv("TOTP", "jbsw y3dp ehpk 3pxp")
    assert run("list", "-m", manifests, "--format", "json")[:2] == (0, "[]\n")
    sent = ("signIn", "getAuthTokensFromLoginToken", "getAuthTokensFromOTP", "signOut")
    assert [fleet.sent(mutation) for mutation in sent] == [1, 2, 2, 2]


def listed(number: int, url: str, custom: str | None = None) -> dict[str, object]:
    urls = {"subdomainUrl": url, "customUrl": custom}
    return {"id": f"w{number}", "loginToken": f"eyJ{number}.b.c", "workspaceUrls": urls}


@pytest.mark.parametrize(
    ("origin", "pin", "token"),
    [
        ("https://a.example.com", None, "eyJ1.b.c"),
        ("https://crm.acme.com", None, "eyJ1.b.c"),
        ("https://shared.example.com", None, None),
        ("https://shared.example.com", "w3", "eyJ3.b.c"),
        ("https://a.example.com", "w9", None),
        ("https://b.example.com", None, None),
    ],
)
def test_a_check_shows_a_workspace_by_its_id_or_its_only_address(origin, pin, token) -> None:
    """Servers list several workspaces under one address too (`D-signin`)."""
    workspaces = [
        listed(1, "https://A.example.com/", "https://crm.acme.com"),
        listed(2, "https://shared.example.com/"),
        listed(3, "https://shared.example.com/"),
        {
            "id": "w4",
            "loginToken": None,
            "workspaceUrls": {"subdomainUrl": "https://b.example.com"},
        },
        "nonsense",
    ]
    available = {"availableWorkspaces": {"availableWorkspacesForSignIn": workspaces}}
    check = PasswordCheck("https://x", Answer(200, {"data": {"signIn": available}}, ""))
    found = check.login_token(origin, pin)
    assert (found and found.reveal()) == token


# Refusals

REASONS = {
    "wrong password": ("the email or the password is wrong", "variables"),
    "unknown origin": ("knows no workspace by this address", "Set `origin`"),
    SignInRefusal.EMAIL_NOT_VERIFIED: ("email address is not verified", "Open the link"),
    SignInRefusal.NOT_A_MEMBER: ("not a member of this workspace", "Invite the user"),
    SignInRefusal.PASSWORD_DISABLED: ("not allow signing in with a password", "session_token"),
    SignInRefusal.WRONG_METHOD: ("does not sign in with a password", "session_token"),
    SignInRefusal.CAPTCHA: ("demands a captcha", "session_token"),
    "no code": ("demands a second factor", "Set `totp`"),
    "wrong code": ("code of the second factor is wrong", "clock of this machine"),
}


@pytest.mark.parametrize(
    ("dialect", "case"),
    # Legacy has no second factor.
    [(one, case) for one in Dialect for case in REASONS if one in CORES or "code" not in str(case)],
)
def test_each_refusal_has_its_own_sentence_and_remedy(serve, stop, dialect, case) -> None:
    """The server's text decides, and a refusal that is not about the code is asked for once."""
    has_code = case in ("no code", "wrong code")
    settings = Settings(
        refusal=case if isinstance(case, SignInRefusal) else None,
        origin="https://crm.example.com" if case == "unknown origin" else None,
        totp_secret=TOTP if has_code else None,
    )
    served = serve(dialect, settings=settings)
    password = "other" if case == "wrong password" else served.sandbox.password
    totp = Secret("GEZDGNBVGY3TQOJQ") if case == "wrong code" else None
    credential = SignIn(Secret(served.sandbox.email), Secret(password), totp)
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, credential, stop)
    reason, remedy = REASONS[case]
    assert caught.value.code == "sign_in_failed"
    assert reason in caught.value.message
    assert remedy in caught.value.remedy
    sent = [one for one in served.journal if b"getLoginTokenFromCredentials" in one.body]
    assert len(sent) == 1
    assert len(served.journal) == {"no code": 2, "wrong code": 4}.get(case, 1)


def test_a_sign_in_names_the_declared_origin(serve, stop) -> None:
    """A workspace that is reached by another address than its own is found."""
    served = serve(settings=Settings(origin="https://crm.example.com"))
    environment = served.environment(origin="https://crm.example.com")
    workspace = connect(environment, served.sandbox.url, served.credential("sign-in"), stop)
    assert workspace.observe().workspace == served.sandbox.workspace_id
    workspace.close()


# The second factor


def with_code(served) -> SignIn:
    return SignIn(Secret(served.sandbox.email), Secret(served.sandbox.password), Secret(TOTP))


def codes(served) -> list[str]:
    bodies = [one.body for one in served.journal if b"getAuthTokensFromOTP" in one.body]
    return [json.loads(body)["variables"]["code"] for body in bodies]


@pytest.mark.parametrize("dialect", CORES)
def test_a_code_of_the_moment_passes_the_second_factor(serve, stop, dialect) -> None:
    """It is sent once, and only if the server demands it."""
    served = serve(dialect, settings=Settings(totp_secret=TOTP))
    connect(served.environment(), served.sandbox.url, with_code(served), stop).close()
    assert len(codes(served)) == 1
    served.sandbox.configure(totp_secret=None)
    connect(served.environment(), served.sandbox.url, with_code(served), stop).close()
    assert len(codes(served)) == 1


def test_the_codes_are_those_of_the_standard() -> None:
    """The last six digits of the examples in RFC 6238, appendix B."""
    secret = Secret("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
    assert [code_at(at, secret) for at in (59, 1111111109, 20000000000)] == [
        "287082",
        "081804",
        "353130",
    ]


def refuse_code(request, answer, *, refused: list[bytes]):
    """Refuse the first code, as a server does that has accepted it before."""
    if b"getAuthTokensFromOTP" not in request.body:
        return answer(request)
    refused.append(request.body)
    if request.body != refused[0]:
        return answer(request)
    extensions = {"code": "BAD_USER_INPUT", "subCode": "INVALID_OTP"}
    error = {"message": "Invalid OTP", "extensions": extensions}
    return json_answer(200, {"errors": [error], "data": None})


def test_after_a_used_code_the_next_one_is_sent(serve, stop) -> None:
    """A run right before this one may have used the code of the moment."""
    served = serve(settings=Settings(totp_secret=TOTP), around=partial(refuse_code, refused=[]))
    connect(served.environment(), served.sandbox.url, with_code(served), stop).close()
    first, second = codes(served)
    assert first != second


def test_a_code_that_came_too_late_is_followed_by_one_of_the_moment(
    serve, stop, monkeypatch
) -> None:
    """A slow network is not taken for a wrong secret, and there is nothing to wait for."""
    now, refused, waits = 1_800_000_000.0, [], []

    def late(request, answer):
        nonlocal now
        if b"getAuthTokensFromOTP" in request.body and not refused:
            now += 95
        return refuse_code(request, answer, refused=refused)

    served = serve(settings=Settings(totp_secret=TOTP), around=late)
    monkeypatch.setattr("provisioner.twenty.auth.time.time", lambda: now)
    monkeypatch.setattr(stop, "sleep", waits.append)
    connect(served.environment(), served.sandbox.url, with_code(served), stop).close()
    assert codes(served)[1] == code_at(now, Secret(TOTP))
    assert sum(waits) == 0


def test_a_stop_ends_the_wait_for_the_next_code(serve) -> None:
    """Nothing is sent after it."""
    stop = Cancellation()

    def refuse(request, answer):
        if b"getAuthTokensFromOTP" in request.body:
            threading.Timer(0.1, stop.request).start()
        return refuse_code(request, answer, refused=[])

    served = serve(settings=Settings(totp_secret=TOTP), around=refuse)
    started = time.monotonic()
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, with_code(served), stop)
    assert caught.value.code == "stopped"
    assert time.monotonic() - started < 4
    assert len(codes(served)) == 1


# Renewal


def test_a_renewal_needs_neither_password_nor_code(serve) -> None:
    """A session is renewed where a sign-in would be refused."""
    served = serve(Dialect.CORE_NEWEST)
    workspace = served.workspace("sign-in")
    served.sandbox.configure(refusal=SignInRefusal.CAPTCHA, totp_secret=TOTP)
    workspace._client._credential._renew_at = 0.0
    assert workspace.observe().workspace == served.sandbox.workspace_id


@pytest.mark.parametrize("dialect", Dialect)
def test_a_refused_renewal_is_followed_by_a_sign_in(serve, dialect) -> None:
    """Both sessions of the user may have been ended meanwhile."""
    served = serve(dialect)
    workspace = served.workspace("sign-in")
    workspace.observe()
    served.sandbox.revoke_signing_key()
    assert workspace.observe().workspace == served.sandbox.workspace_id
    sent = [one.body for one in served.journal if signs_in(one.body)]
    renewals = [number for number, body in enumerate(sent) if b"renewToken" in body]
    assert len(renewals) == 1
    assert sum(b"getLoginToken" in body for body in sent[renewals[0] :]) == 1


# Sign-out


def test_the_end_of_a_run_ends_its_sessions(fleet, stop) -> None:
    """Their refresh tokens are accepted no longer."""
    fleet.start(3)
    sessions = [one._client._credential for one in fleet.open(fleet.environments(), stop)]
    fleet.run.close()
    assert fleet.sent("signOut") == 3
    before = len(fleet.journal)
    sessions[0]._renew_at = 0.0
    sessions[0].token()
    after = [one.body for one in fleet.journal[before:]]
    assert [b"renewToken" in after[0], b"getLoginToken" in after[1]] == [True, True]


def test_a_server_that_knows_no_sign_out_is_not_asked_again(fleet, stop) -> None:
    """One request of the run finds that out."""
    fleet.start(3, Dialect.CORE)
    fleet.open(fleet.environments(), stop)
    fleet.run.close()
    assert fleet.sent("signOut") == 1


def test_a_failed_sign_out_is_no_error(fleet, stop) -> None:
    """The server that lost one is not asked for the others."""

    def silent(request, answer):
        if b"signOut" in request.body:
            raise ConnectionError
        return answer(request)

    fleet.start(3, around=silent)
    fleet.open(fleet.environments(), stop)
    fleet.run.close()
    assert fleet.sent("signOut") == 1


def test_after_a_stop_no_session_is_ended(fleet) -> None:
    """They end by themselves."""
    stop = Cancellation()
    fleet.start(1)
    fleet.open(fleet.environments(), stop)
    stop.request()
    fleet.run.close()
    assert fleet.sent("signOut") == 0


def test_a_stop_does_not_wait_for_a_sign_out(fleet) -> None:
    """A server that does not answer it does not hold the run up."""
    stop, released = Cancellation(), threading.Event()

    def hang(request, answer):
        if b"signOut" in request.body:
            stop.request()
            released.wait(10)
        return answer(request)

    fleet.start(1, around=hang)
    fleet.open(fleet.environments(), stop)
    started = time.monotonic()
    fleet.run.close()
    assert time.monotonic() - started < 2
    released.set()
