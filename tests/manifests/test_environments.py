"""Environments are resolved from environments.yaml, with its variables, secrets and URLs."""

import re
from pathlib import Path

import pytest
import trustme
from builders import limits_with, policy_with
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors.problem import Problem
from provisioner.manifests import DeclaredEnvironment, load, resolve
from provisioner.manifests.text import MAX_BYTES
from provisioner.manifests.variables import UnsetVariable, Variable, VariableText, parse
from provisioner.model.environment import ApiToken, Environment, Guards, SessionToken, Share, SignIn

pytestmark = pytest.mark.fast

TOKEN = '    auth: {token: "${TOKEN}"}\n'
URL = "    url: https://crm.example.com\n"


@pytest.fixture
def declare(tmp_path: Path):
    """Declare one environment with these lines in its mapping."""

    def declare(body: str) -> DeclaredEnvironment:
        directory = tmp_path / "manifests"
        directory.mkdir(exist_ok=True)
        content = f"version: 1\nenvironments:\n  production:\n{body}"
        (directory / "environments.yaml").write_text(content)
        manifests = load(directory)
        assert manifests.problems == ()
        (declared,) = manifests.environments
        return declared

    return declare


def offline(tmp_path: Path, body: str) -> tuple[Problem, ...]:
    """Return the problems of one environment with these lines, without variables and files."""
    directory = tmp_path / "offline"
    directory.mkdir()
    content = f"version: 1\nenvironments:\n  production:\n{body}"
    (directory / "environments.yaml").write_text(content)
    return load(directory).problems


def resolved(declared: DeclaredEnvironment, root: Path, **variables: str) -> Environment:
    environments, problems = resolve([declared], {"TOKEN": "t", **variables}, root)
    assert problems == ()
    (environment,) = environments
    return environment


def refused(declared: DeclaredEnvironment, root: Path, **variables: str) -> tuple[Problem, ...]:
    environments, problems = resolve([declared], variables, root)
    assert environments == ()
    return problems


def test_an_environment_has_the_documented_defaults(declare, tmp_path: Path) -> None:
    """Only a URL and credentials are required; the place is that of the name."""
    declared = declare(URL + TOKEN)
    assert (declared.name, declared.place.line, declared.place.column) == ("production", 3, 3)
    environment = resolved(declared, tmp_path)
    assert isinstance(environment.credential, ApiToken)
    assert environment.limits == limits_with(
        requests_per_minute=None, parallel=4, batch=60, timeout=30.0
    )
    assert (environment.headers, environment.ca_file, environment.owns) == ((), None, ())
    assert (environment.role, environment.generation, environment.workspace) == (None, None, None)
    assert (environment.protect, environment.guards) == (False, Guards(Share(30)))
    assert environment.policy is None


def test_every_key_of_an_environment_arrives(declare, tmp_path: Path) -> None:
    """All values have the units of `Environment`, with and without variables."""
    (tmp_path / "ca.pem").write_text("certificate")
    declared = declare(
        "    url: ${HOST:-https://CRM.example.com/proxy/}\n"
        + TOKEN
        + """\
    headers: {X-Team: platform, X-Api-Key: "${KEY}", Proxy-Authorization: "Basic ${PROXY}"}
    ca_file: ca.pem
    owns: ["svc-*", "${PREFIX}-*"]
    role: ${ROLE:-Integrations}
    generation: ${GENERATION:-legacy}
    workspace: 20202020-1C25-4d02-bf25-6aeccf7ea419
    limits: {requests_per_minute: "${RATE}", parallel: 8, batch: "${BATCH:-30}", timeout: 500ms}
    protect: true
    guards: {max_revoke: 5%}
    policy: {rotation: required}
"""
    )
    environment = resolved(
        declared, tmp_path, KEY="k", PROXY="p", PREFIX="team", RATE="100", TOKEN="a.b-c\n"
    )
    assert environment.url == "https://crm.example.com/proxy"
    assert isinstance(environment.credential, ApiToken)
    assert environment.credential.token.reveal() == "a.b-c"
    assert [(name, value.reveal()) for name, value in environment.headers] == [
        ("X-Team", "platform"),
        ("X-Api-Key", "k"),
        ("Proxy-Authorization", "Basic p"),
    ]
    assert environment.ca_file == tmp_path / "ca.pem"
    assert environment.owns == ("svc-*", "team-*")
    assert environment.role == "Integrations"
    assert environment.generation == "legacy"
    assert environment.workspace == "20202020-1c25-4d02-bf25-6aeccf7ea419"
    assert environment.limits == limits_with(
        requests_per_minute=100, parallel=8, batch=30, timeout=0.5
    )
    assert environment.protect
    assert environment.guards == Guards(Share(5))
    assert environment.policy == policy_with(rotation=True)


@pytest.mark.parametrize(
    ("guards", "expected"),
    [("{max_revoke: 0}", Guards(0)), ("{max_revoke: 12}", Guards(12)), ("{}", Guards())]
    + [('{max_revoke: "0%"}', Guards(Share(0))), ("{max_revoke: 100%}", Guards(Share(100)))],
)
def test_a_guard_is_a_number_or_a_share(
    declare, tmp_path: Path, guards: str, expected: Guards
) -> None:
    """Quotes make no difference."""
    declared = declare(f"{URL}{TOKEN}    protect: false\n    guards: {guards}\n")
    environment = resolved(declared, tmp_path)
    assert (environment.guards, environment.protect) == (expected, False)


@pytest.mark.parametrize(
    ("written", "seconds"), [("1ms", 0.001), ("2s", 2.0), ("2m", 120.0), ("1h", 3600.0)]
)
def test_a_timeout_is_in_seconds(declare, tmp_path: Path, written: str, seconds: float) -> None:
    """Timeouts from a millisecond to an hour are allowed."""
    declared = declare(f"{URL}{TOKEN}    limits: {{timeout: {written}}}\n")
    assert resolved(declared, tmp_path).limits.timeout == seconds


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://crm.example.com", "https://crm.example.com"),
        ("https://crm.example.com:8443///", "https://crm.example.com:8443"),
        ("HTTPS://CRM.Example.com/Team/", "https://crm.example.com/Team"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://crm.localhost", "http://crm.localhost"),
        ("http://127.8.0.1", "http://127.8.0.1"),
        ("http://LOCALHOST.:3000", "http://localhost.:3000"),
        ("http://Apple.LocalHost:3000", "http://apple.localhost:3000"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("https://crm.example.com/rest/team", "https://crm.example.com/rest/team"),
        ("https://crm.example.com/metadata/team", "https://crm.example.com/metadata/team"),
        ("https://crm.example.com/interest", "https://crm.example.com/interest"),
        ("https://graphql", "https://graphql"),
        ("https://rest/", "https://rest"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
    ],
)
def test_a_url_is_normalized(declare, tmp_path: Path, url: str, expected: str) -> None:
    """Scheme and host become lowercase, trailing slashes are removed, loopback may use http."""
    assert resolved(declare(f'    url: "{url}"\n{TOKEN}'), tmp_path).url == expected


@pytest.mark.parametrize(
    "path",
    [
        "rest",
        "graphql",
        "metadata",
        "rest/",
        "GraphQL",
        "metadata//",
        "rest/apiKeys",
        "rest/metadata",
    ]
    + [
        "rest/apiKeys/20202020-1c25-4d02-bf25-6aeccf7ea419",
        "rest/batch/apiKeys",
        "rest/open-api/core",
    ],
)
@pytest.mark.parametrize("prefix", ["", "/team"])
def test_the_address_of_an_api_is_refused_with_the_right_one(
    declare, tmp_path: Path, prefix: str, path: str
) -> None:
    """Offline if it is written in the file; the value of a variable is not shown."""
    right = f"https://crm.example.com{prefix}"
    (problem,) = offline(tmp_path, f"    url: {right}/{path}\n{TOKEN}")
    assert (problem.code, problem.place.line) == ("url_invalid", 4)
    assert problem.message.endswith(f": write {right}")
    declared = declare(f"    url: ${{ADDRESS}}\n{TOKEN}")
    (problem,) = refused(declared, tmp_path, ADDRESS=f"{right}/{path}", TOKEN="t")
    assert problem.code == "url_invalid"
    assert "crm.example.com" not in problem.message
    assert f"remove /{path.partition('/')[0]}" in problem.message


def test_plain_http_needs_insecure(declare, tmp_path: Path) -> None:
    """Only `insecure: true` allows plain http to another machine."""
    declared = declare(f"    url: http://crm.example.com\n    insecure: true\n{TOKEN}")
    assert resolved(declared, tmp_path).url == "http://crm.example.com"


@pytest.mark.parametrize(
    "url", ["sandbox:", "sandbox:core", "sandbox:core-1", "sandbox:core-newest", "sandbox:legacy"]
)
def test_the_embedded_twenty_needs_no_credentials(declare, tmp_path: Path, url: str) -> None:
    """This holds for every dialect."""
    environment = resolved(declare(f'    url: "{url}"\n'), tmp_path)
    assert (environment.url, environment.credential) == (url, None)
    assert environment.embedded


def test_each_form_of_auth_gives_its_credential(declare, tmp_path: Path) -> None:
    """A line break at the end of a file is not part of the secret."""
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "password").write_text(" pass word \r\n")
    files = tmp_path / "password"
    found = {
        form: resolved(
            declare(f"{URL}    auth: {{{form}}}\n"), tmp_path, E="e@x", P="p w"
        ).credential
        for form in (
            'token: "${TOKEN}"',
            "token_file: token",
            'session_token: "${TOKEN}"',
            'email: "${E}", password: "${P}"',
            f'email: "${{E}}", password_file: {files}',
        )
    }
    token, token_file, session, password, password_file = found.values()
    assert isinstance(token, ApiToken)
    assert token.token.reveal() == "t"
    assert isinstance(token_file, ApiToken)
    assert token_file.token.reveal() == "from-file"
    assert isinstance(session, SessionToken)
    assert session.token.reveal() == "t"
    assert isinstance(password, SignIn)
    assert (password.email.reveal(), password.password.reveal()) == ("e@x", "p w")
    assert isinstance(password_file, SignIn)
    assert password_file.password.reveal() == " pass word "
    assert "from-file" not in repr(found)


def test_the_secret_of_a_second_factor_is_written_in_any_way(declare, tmp_path: Path) -> None:
    """Pages show it in groups of letters; programs want it without spaces."""
    for form in ('password: "${P}"', "password_file: password"):
        (tmp_path / "password").write_text("p")
        declared = declare(f'{URL}    auth: {{email: "${{E}}", {form}, totp: "${{T}}"}}\n')
        written = " jbsw y3dp-ehpk 3pxp==\n"
        credential = resolved(declared, tmp_path, E="e", P="p", T=written).credential
        assert isinstance(credential, SignIn)
        assert credential.totp is not None
        assert credential.totp.reveal() == "JBSWY3DPEHPK3PXP"


CLEANED = ["{}", "{}\n", "{}\r\n", "\ufeff{}", "\ufeff{}\n", " {}\t\n\n"]


@pytest.mark.parametrize("written", CLEANED)
def test_a_token_is_cleaned_of_what_shells_and_editors_add(declare, tmp_path, written) -> None:
    """A byte order mark, line breaks and spaces, in variables and in files."""
    value = written.format("eyJ.b.c")
    (tmp_path / "token").write_text(value, encoding="utf-8", newline="")
    for form in ('token: "${V}"', "token_file: token", 'session_token: "${V}"'):
        credential = resolved(declare(f"{URL}    auth: {{{form}}}\n"), tmp_path, V=value).credential
        assert isinstance(credential, ApiToken | SessionToken)
        assert credential.token.reveal() == "eyJ.b.c"


@pytest.mark.parametrize("password", ["p", " p w ", '"p"', "'p", "p\n", '"p" \n'])
@pytest.mark.parametrize("written", CLEANED[:-1])
def test_a_password_keeps_its_spaces_and_quotes(declare, tmp_path, written, password) -> None:
    """Only a byte order mark and one line break are removed, in variables and in files."""
    value = written.format(password)
    (tmp_path / "password").write_text(value, encoding="utf-8", newline="")
    expected = password.removesuffix("\n") if written in ("{}", "\ufeff{}") else password
    for form in ('password: "${V}"', "password_file: password"):
        declared = declare(f'{URL}    auth: {{email: "${{E}}", {form}}}\n')
        credential = resolved(declared, tmp_path, V=value, E="\ufeff e@x \n").credential
        assert isinstance(credential, SignIn)
        assert (credential.email.reveal(), credential.password.reveal()) == ("e@x", expected)


SIGN_IN = 'email: "${E}", password: "${P}", totp: "${T}"'


@pytest.mark.parametrize(
    ("form", "variable", "value", "message"),
    [
        ('token: "${V}"', "V", '"hunter2secret"', "the value of V is in quotes: remove them"),
        ('token: "${V}"', "V", "hunter2secret'", "the value of V is in quotes: remove them"),
        ('token: "${V}"', "V", "\u201chunter2secret\u201d", "the value of V is in quotes"),
        ('token: "${V}"', "V", "Bearer hunter2secret", "the value of V is not a token: "),
        ('session_token: "${V}"', "V", "hunter2\nsecret", "the value of V is not a token: "),
        ('token: "${V}${W}"', "V", "hunter2 secret", "the value of V and W is not a token: "),
        (SIGN_IN, "E", "'hunter2secret'", "the value of E is in quotes: remove them"),
        (SIGN_IN, "E", " \n", "the value of E is empty"),
        (SIGN_IN, "E", "hunter2\n# secret", "the value of E contains a space or a line break: "),
        (SIGN_IN, "P", "\n", "the value of P is empty"),
        (SIGN_IN, "T", "234567", "the value of T is not the secret of a second factor: "),
        (SIGN_IN, "T", "hunter2secret", "the value of T is not the secret of a second factor: "),
        (SIGN_IN, "T", "JBSWY3DPEHPK3PX1", "the value of T is not the secret"),
        (SIGN_IN, "T", "otpauth://totp/x?secret=JBSWY3DPEHPK3PXP", "the value of T is not"),
        (SIGN_IN, "T", '"JBSWY3DPEHPK3PXP"', "the value of T is in quotes: remove them"),
        ("token_file: secret", "F", '"hunter2secret"', "the content of the file secret is in quo"),
        ('token_file: "${V}"', "V", "secret", "the content of the file in V is in quotes: rem"),
    ],
)
def test_a_secret_that_cannot_be_one_is_refused_offline(
    declare, tmp_path: Path, form: str, variable: str, value: str, message: str
) -> None:
    """The message names the variable or the file, says what to do, and never has the value."""
    (tmp_path / "secret").write_text("'hunter2secret'")
    values = {"W": "w", "E": "e", "P": "p", "T": "JBSWY3DPEHPK3PXP", variable: value}
    (problem,) = refused(declare(f"{URL}    auth: {{{form}}}\n"), tmp_path, **values)
    assert problem.code == "auth_invalid"
    assert problem.message.startswith(message)
    assert "hunter2" not in str(problem)
    assert "JBSW" not in str(problem)


def test_an_origin_is_a_scheme_and_a_host(declare, tmp_path: Path) -> None:
    """Nothing is sent to it, so plain http is no danger."""
    for written in ("http://CRM.example.com/", "http://crm.example.com"):
        environment = resolved(declare(f"{URL}    origin: {written}\n{TOKEN}"), tmp_path)
        assert environment.origin == "http://crm.example.com"
    assert resolved(declare(URL + TOKEN), tmp_path).origin is None


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("crm.example.com", "url_invalid"),
        ("https://crm.example.com/app", "url_invalid"),
        ("https://crm.example.com?x", "url_invalid"),
        ("ftp://crm.example.com", "url_invalid"),
        ("sandbox:", "url_invalid"),
        ("https://me:pw@crm.example.com", "url_credentials"),
    ],
)
def test_another_origin_is_refused(declare, tmp_path: Path, written: str, code: str) -> None:
    """It is found offline if it depends on no variable, and does not show the value of one."""
    (problem,) = refused(
        declare(f'{URL}    origin: "${{O}}"\n{TOKEN}'), tmp_path, O=written, TOKEN="t"
    )
    assert (problem.code, problem.place.line) == (code, 5)
    assert written not in problem.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"x" * (64 * 1024 + 1), "is larger than 65536 bytes"),
        (None, "no such file"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    declare, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The message has the path as written and the reason."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    (problem,) = refused(declare(f"{URL}    auth: {{token_file: secret}}\n"), tmp_path)
    assert problem.code == "secret_file_unreadable"
    assert problem.message.startswith("the file secret ")
    assert reason in problem.message


def test_a_path_from_a_variable_is_not_shown(declare, tmp_path: Path) -> None:
    """The variable may contain the token itself by mistake."""
    declared = declare(f'{URL}    auth: {{token_file: "${{T}}"}}\n    ca_file: "${{C}}"\n')
    problems = refused(declared, tmp_path, T="hunter2secret", C="hunter2secret")
    assert [problem.code for problem in problems] == [
        "secret_file_unreadable",
        "ca_file_unreadable",
    ]
    assert "hunter2secret" not in str(problems)
    problems = refused(declared, tmp_path, T="a\0b", C="a\0b")
    assert all("NUL" in problem.message or "nul" in problem.message for problem in problems)


@pytest.mark.parametrize("content", [b"", b"#" * (MAX_BYTES + 1)])
def test_a_ca_file_must_not_be_empty(declare, tmp_path: Path, content: bytes) -> None:
    """It must not be too large either."""
    (tmp_path / "ca.pem").write_bytes(content)
    (problem,) = refused(declare(f"{URL}{TOKEN}    ca_file: ca.pem\n"), tmp_path, TOKEN="t")
    assert (problem.code, "empty or too large" in problem.message) == ("ca_file_unreadable", True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates and keys that fit, that do not, and that cannot be used."""
    folder = tmp_path_factory.mktemp("pem")
    rsa = {"key_type": trustme.KeyType.RSA}
    for name, options in {"a": {}, "b": {}, "rsa": rsa}.items():
        leaf = trustme.CA().issue_cert("provision", **options)
        cert, key = leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
        (folder / f"{name}.pem").write_bytes(cert)
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}-both.pem").write_bytes(cert + key)
    secret = serialization.load_pem_private_key((folder / "a.key").read_bytes(), None)
    for name, form in {
        "pkcs8": serialization.PrivateFormat.PKCS8,
        "traditional": serialization.PrivateFormat.TraditionalOpenSSL,
    }.items():
        encryption = serialization.BestAvailableEncryption(b"word")
        encrypted = secret.private_bytes(serialization.Encoding.PEM, form, encryption)
        (folder / f"{name}.key").write_bytes(encrypted)
    (folder / "damaged.pem").write_bytes((folder / "a.pem").read_bytes().replace(b"MII", b"***"))
    (folder / "junk.pem").write_bytes(b"\x30\x82")
    (folder / "large.pem").write_bytes(b"#" * (64 * 1024 + 1))
    return folder


def test_a_client_certificate_has_its_key_beside_or_inside(declare, pem: Path) -> None:
    """Relative paths start where those of `ca_file` do."""
    lines = "    client_cert_file: a.pem\n    client_key_file: a.key\n"
    environment = resolved(declare(URL + TOKEN + lines), pem)
    assert environment.client_cert_file == pem / "a.pem"
    assert environment.client_key_file == pem / "a.key"
    environment = resolved(declare(f"{URL}{TOKEN}    client_cert_file: a-both.pem\n"), pem)
    assert environment.client_cert_file == pem / "a-both.pem"
    assert environment.client_key_file is None


@pytest.mark.parametrize(
    ("cert", "key", "line", "message"),
    [
        ("gone.pem", "a.key", 6, "the file gone.pem cannot be read: no such file or directory"),
        (".", "a.key", 6, "the file . cannot be read: is a directory"),
        ("a.pem", "gone.key", 7, "the file gone.key cannot be read: no such file or directory"),
        ("large.pem", "a.key", 6, "the file large.pem is larger than 65536 bytes"),
        ("junk.pem", "a.key", 6, "the file junk.pem contains no certificate in the PEM format"),
        ("a.pem", "a.pem", 7, "the file a.pem contains no private key in the PEM format"),
        ("a.pem", None, 6, "name the file that does in `client_key_file`"),
        ("a.pem", "b.key", 7, "the private key does not belong to the certificate"),
        ("a.pem", "rsa.key", 7, "the private key does not belong to the certificate"),
        ("a.pem", "pkcs8.key", 7, "the file pkcs8.key contains an encrypted private key"),
        ("a.pem", "traditional.key", 7, "contains an encrypted private key"),
        ("damaged.pem", "a.key", 7, "the certificate or its private key cannot be used"),
    ],
)
def test_a_client_certificate_that_cannot_be_used_is_refused(
    declare, pem: Path, cert: str, key: str | None, line: int, message: str
) -> None:
    """A run finds it before anything is sent, and names the line of the file at fault."""
    lines = f"    client_cert_file: {cert}\n" + (f"    client_key_file: {key}\n" if key else "")
    (problem,) = refused(declare(URL + TOKEN + lines), pem, TOKEN="t")
    assert (problem.code, problem.place.line) == ("client_cert_invalid", line)
    assert message in problem.message


def test_the_path_of_a_client_certificate_in_a_variable_is_not_shown(declare, pem: Path) -> None:
    """The variable may contain the key itself by mistake."""
    lines = '    client_cert_file: "${CERT}"\n    client_key_file: "${KEY}"\n'
    declared = declare(URL + TOKEN + lines)
    assert resolved(declared, pem, CERT="a.pem", KEY="a.key").client_key_file == pem / "a.key"
    problems = refused(declared, pem, TOKEN="t", CERT="hunter2secret", KEY="hunter2secret")
    assert [problem.code for problem in problems] == ["client_cert_invalid"] * 2
    assert "hunter2secret" not in str(problems)


def test_a_key_without_a_certificate_is_refused_offline(tmp_path: Path) -> None:
    """No file needs to be read for that."""
    (problem,) = offline(tmp_path, f"{URL}{TOKEN}    client_key_file: a.key\n")
    assert (problem.code, problem.place.line) == ("client_cert_invalid", 6)
    assert "client_cert_file" in problem.message


def test_all_missing_variables_are_reported_at_once(declare, tmp_path: Path) -> None:
    """Each has its place; empty counts as missing, and the text of `:?` is in the message."""
    declared = declare(
        '    url: ${HOST}/${PATH_OF_PROXY}\n    auth: {token: "${TOKEN:?see the $$wiki}"}\n'
    )
    assert [str(p).rpartition("/")[2] for p in refused(declared, tmp_path, TOKEN="")] == [
        "environments.yaml:4:10: variable_missing: the variable HOST is not set",
        "environments.yaml:4:10: variable_missing: the variable PATH_OF_PROXY is not set",
        "environments.yaml:5:19: variable_missing: the variable TOKEN is empty: see the $wiki",
    ]


def test_all_offline_problems_are_reported_at_once(tmp_path: Path) -> None:
    """A value of a wrong type does not hide a literal secret elsewhere."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  a:\n    auth: {token: hunter2secret, password: x}\n"
        "    headers: {Authorization: x, X-Key: [1], X-Token: hunter2secret}\n"
        "    role: ${\n    owns: 7\n    limits: {batch: 99, none: 1}\n  b: 7\n"
    )
    problems = load(directory).problems
    assert [f"{p.code} {p.place.line}:{p.place.column}" for p in problems] == [
        "missing_key 4:5",
        "auth_invalid 4:11",
        "secret_literal 4:19",
        "secret_literal 4:44",
        "header_invalid 5:15",
        "secret_literal 5:30",
        "header_invalid 5:40",
        "secret_literal 5:54",
        "variable_invalid 6:11",
        "wrong_type 7:11",
        "invalid_value 8:21",
        "unknown_key 8:25",
        "wrong_type 9:6",
    ]
    assert "hunter2secret" not in str(problems)


# Variables


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("plain", ("plain",)),
        ("", ()),
        ("$$", ("$",)),
        ("$${A}", ("${A}",)),
        ("$$$$x", ("$$x",)),
        ("${A}", (Variable("A"),)),
        ("x${_a1}y", ("x", Variable("_a1"), "y")),
        ("${A:-}", (Variable("A", default=""),)),
        ("${A:-b:-c $$ d?}", (Variable("A", default="b:-c $ d?"),)),
        ("${A:?say: $$}", (Variable("A", message="say: $"),)),
        ("${A}${B:-b}", (Variable("A"), Variable("B", default="b"))),
        ("a}b{c", ("a}b{c",)),
    ],
)
def test_a_value_is_read_in_parts(written: str, parts: tuple) -> None:
    """Text and variables alternate; `$$` is always a dollar sign."""
    assert parse(written).parts == parts


@pytest.mark.parametrize(
    "written",
    ["$", "$A", "${", "${}", "${A", "${1}", "${A-b}", "${A:b}", "${A:-${B}}", "${A:-$}", "${Ä}"],
)
def test_a_lone_dollar_is_refused(written: str) -> None:
    """The message has advice and shows nothing of the value."""
    with pytest.raises(ValueError, match=re.escape("${NAME:-default}")):
        parse(written)


@given(st.text())
def test_any_text_can_be_written(text: str) -> None:
    """A text with every dollar sign doubled is the text itself."""
    template = parse(text.replace("$", "$$"))
    assert template.expand({}) == text
    assert template.variables == ()


@given(st.text(min_size=1), st.text(), st.text())
def test_values_are_not_expanded_again(value: str, before: str, after: str) -> None:
    """The value of a variable may contain `${…}`."""
    template = parse(f"{before.replace('$', '$$')}${{A}}{after.replace('$', '$$')}")
    assert template.expand({"A": value}) == before + value + after
    assert template.expand({"A": ""}) == (UnsetVariable(Variable("A"), empty=True),)
    assert template.expand({}) == (UnsetVariable(Variable("A"), empty=False),)


@given(st.text(st.characters(exclude_characters="${}")), st.text())
def test_a_default_replaces_an_unset_and_an_empty_variable(default: str, value: str) -> None:
    """`:-` works as in a shell."""
    template = parse(f"${{A:-{default}}}")
    assert template.expand({}) == default
    assert template.expand({"A": value}) == (value or default)


@given(st.lists(st.sampled_from(["x", "$$", "${A}", "${B:?m}", "${C:-d}", "${D:-}"]), max_size=5))
def test_a_value_with_a_default_is_literal(parts: list[str]) -> None:
    """Only variables without a default keep a secret out of the file."""
    assert parse("".join(parts)).literal is not (
        bool(parts) and all(part in {"${A}", "${B:?m}"} for part in parts)
    )
    assert VariableText(()).literal
