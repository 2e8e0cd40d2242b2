"""The targets of `notify`: read from all environments files, and resolved without ever failing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.manifests import load, resolve_targets
from provisioner.model.notify import HttpTarget, NotifyTarget, ProgramTarget, UnusableTarget
from provisioner.secret import Secret, masked

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fast

PATH = "services/T0/B0/a-very-secret-path"


def targets(folder: Path, notify: str, **values: str) -> tuple[NotifyTarget, ...]:
    """Return the targets of a list with these values of the variables."""
    manifests = folder / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "environments.yaml").write_text(
        f"version: 1\nnotify: {notify}\nenvironments: {{shop: {{url: 'sandbox:'}}}}\n"
    )
    loaded = load(manifests)
    assert loaded.problems == ()
    return resolve_targets(loaded.notify, values)


def unusable(folder: Path, notify: str, **values: str) -> str:
    (target,) = targets(folder, notify, **values)
    assert isinstance(target, UnusableTarget)
    assert target.failure.code == "not_notified"
    return target.failure.text


def test_every_kind_of_target_is_resolved(tmp_path) -> None:
    """The address is a secret, and only its host is ever shown."""
    url = f"https://Hooks.example.com:8443/{PATH}?wait=true"
    slack, hook, program = targets(
        tmp_path,
        '[{slack: "${A}"}, {webhook: "${B}${C}"}, {command: [./tell, "${D}"]}]',
        A=url, B="http://127.0.0.1:1/", C="hook", D="two words",
    )  # fmt: skip
    assert slack == HttpTarget("slack", Secret(url), "hooks.example.com:8443")
    assert str(slack) == "slack hooks.example.com:8443"
    assert hook == HttpTarget("webhook", Secret("http://127.0.0.1:1/hook"), "127.0.0.1:1")
    assert program == ProgramTarget(("./tell", "two words"))
    assert PATH not in repr(slack)
    assert PATH not in masked(f"POST /{PATH}?wait=true HTTP/1.1")


@pytest.mark.parametrize(
    ("notify", "value", "reason"),
    [
        ('[{slack: "${A}"}]', None, "the variable A is not set"),
        ('[{slack: "${A:?ask ops}"}]', "", "the variable A is empty: ask ops"),
        ('[{slack: "${A}"}]', "hooks.example.com/secret", "the value of A is not a URL"),
        ('[{slack: "${A}"}]', "https://[secret", "the value of A is not a URL"),
        ('[{slack: "${A}"}]', "https://x.example/a secret", "the value of A is not a URL"),
        ('[{slack: "${A}"}]', "file:///secret", "the value of A is not a URL"),
        ('[{slack: "${A}"}]', "https://me:secret@x.example", "contains credentials"),
        ('[{webhook: "${A}"}]', "http://x.example/secret", "plain http"),
        ('[{command: [tell, "${A}"]}]', None, "the variable A is not set"),
    ],
)
def test_a_target_that_cannot_be_used_says_why_and_shows_no_value(
    tmp_path, notify, value, reason
) -> None:
    """It never stops a run, and its message has the place and not the value."""
    message = unusable(tmp_path, notify, **({} if value is None else {"A": value}))
    assert reason in message
    assert "environments.yaml line 2 was not told" in message
    assert "secret" not in message


def test_plain_http_is_for_loopback_or_by_permission(tmp_path) -> None:
    """As for environments, `insecure` allows another machine."""
    for url in ("http://localhost:9/hook", "http://[::1]:9/hook"):
        (target,) = targets(tmp_path, '[{webhook: "${A}"}]', A=url)
        assert isinstance(target, HttpTarget)
    notify = '[{webhook: "${A}", insecure: true}]'
    (target,) = targets(tmp_path, notify, A="http://x.example/hook")
    assert isinstance(target, HttpTarget)


def test_an_empty_default_makes_a_target_optional(tmp_path) -> None:
    """A developer without the variable is not warned in every run."""
    notify = '[{slack: "${A:-}"}]'
    assert targets(tmp_path, notify) == ()
    assert targets(tmp_path, notify, A="") == ()
    assert len(targets(tmp_path, notify, A="https://x.example/hook")) == 1


def test_the_lists_of_all_environments_files_are_joined(tmp_path) -> None:
    """Each target is told once, in the order of the files."""
    folder = tmp_path / "manifests" / "environments"
    folder.mkdir(parents=True)
    (folder / "more.yaml").write_text(
        'version: 1\nnotify: [{slack: "${A}"}, {command: [b]}]\n'
        "environments: {other: {url: 'sandbox:'}}\n"
    )
    found = targets(tmp_path, '[{command: [a]}, {slack: "${A}"}]', A="https://x.example/hook")
    assert list(map(str, found)) == ["command a", "slack x.example", "command b"]


def test_an_unknown_kind_of_target_is_one_problem(tmp_path) -> None:
    """The message says which kinds there are, and not where else the key could stand."""
    (tmp_path / "environments.yaml").write_text(
        "version: 1\nnotify: [{email: a@example.com}]\nenvironments: {shop: {url: 'sandbox:'}}\n"
    )
    (problem,) = load(tmp_path).problems
    assert (problem.code, problem.place.line) == ("invalid_value", 2)
    assert "{slack: ${SLACK_URL}}" in problem.message
