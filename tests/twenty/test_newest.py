"""The client against the newest Twenty: pages that move, limits, spent credits, rights."""

from __future__ import annotations

import json
import os
import random
import uuid
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from graphql import OperationDefinitionNode, parse
from sandbox_control import (
    Dialect,
    Request,
    Response,
    json_answer,
    rate_limited,
    spent_credits,
)

from provisioner.errors.exceptions import WorkspaceError
from provisioner.model.environment import SessionToken
from provisioner.model.observed import HiddenRoles
from provisioner.model.workspace import Created, NewKey, NotCreated
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.twenty.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.model.workspace import CreateObserver, Outcome, Workspace

READINGS = int(os.environ.get("TEST_READINGS", "20"))
"""Lists that are read while keys are revoked; 200 for a thorough run."""

END = "2031-01-01T00:00:00.417Z"
NEW_END = datetime.fromisoformat("2032-01-01T00:00:00Z")
LIST = "/rest/metadata/apiKeys"
PAGE = 3


def paged(between: Callable[[], None], request: Request, answer: Callable[..., Response]) -> Any:
    """Hide the roles, so that the list is read in pages, which are small; act between them."""
    if b"Roles{" in request.body:
        return json_answer(200, {"errors": [{"message": 'Cannot query field "getRoles"'}]})
    if request.path != LIST:
        return answer(request)
    response = answer(replace(request, query={**request.query, "limit": str(PAGE)}))
    if json.loads(response.body)["pageInfo"]["hasNextPage"]:
        between()
    return response


def revoke(served: Any, key_id: str) -> None:
    """Revoke a key behind the client's back."""
    [key] = [one for one in served.sandbox.keys() if one.id == key_id]
    served.sandbox.put(replace(key, revoked_at="2027-01-01T00:00:00.000Z"))


def live_ids(served: Any) -> list[str]:
    """Return the ids of the keys that are not revoked, in the order of the list."""
    keys = sorted(served.sandbox.keys(), key=lambda key: (key.created_at, key.id))
    return [key.id for key in keys if key.revoked_at is None]


class Outcomes(dict[str, "Outcome"]):
    """The outcome of each key by its name."""

    def on_send(self, key: NewKey) -> None:
        """Do nothing."""

    def on_outcome(self, key: NewKey, outcome: Outcome) -> None:
        """Keep the outcome."""
        self[key.name] = outcome


def create(workspace: Workspace, served: Any, *names: str) -> Outcomes:
    """Create keys; those of legacy have no role."""
    role = None if served.sandbox.dialect is Dialect.LEGACY else served.sandbox.role("Admin").id
    outcomes = Outcomes()
    observer: CreateObserver = outcomes
    keys = [
        NewKey(id=str(uuid.uuid4()), name=name, expires_at=END, depth=1, role_id=role)
        for name in names
    ]
    workspace.create_many(keys, observer)
    return outcomes


# Detection


def test_without_the_older_list_the_metadata_list_shows_the_generation(serve) -> None:
    """`/rest/apiKeys` may go away one day; one more read finds the core generation."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.configure(serves_bare_list=False)
    served.sandbox.seed(["a"])
    workspace = served.workspace()
    assert workspace.generation == "core"
    assert [key.name for key in workspace.observe().keys] == ["a"]
    assert [one.method for one in served.journal] == ["GET", "GET", "POST"]


def test_the_refusal_of_the_metadata_list_is_the_reason(serve) -> None:
    """The older path is missing, and the role lacks the permission: the second counts."""
    served = serve(Dialect.CORE_NEWEST)
    served.sandbox.configure(serves_bare_list=False)
    member = SessionToken(Secret(served.sandbox.session_token("member")))
    with pytest.raises(WorkspaceError) as caught:
        connect(served.environment(), served.sandbox.url, member, Cancellation())
    assert caught.value.code == "permission_denied"


def test_a_server_without_any_list_is_not_twenty(scripted, answer, hurried) -> None:
    """Where neither path exists, the first answer is the error, after two requests."""
    server = scripted(answer(404, "<html>first"), answer(404, "<html>second"))
    from builders import environment_with

    with pytest.raises(WorkspaceError) as caught:
        connect(environment_with(url=server.url), server.url, SessionToken(Secret("t")), hurried())
    assert caught.value.code == "unexpected_answer"
    assert len(server.requests) == 2


# Pages that move


def test_a_key_revoked_between_two_pages_hides_no_other(serve) -> None:
    """Whichever key is revoked, and however often: a key that stays live is always listed, once.

    If it were not, the plan would create it a second time. The revoked key may be the cursor, whose
    page is then empty; it may be the last but one, so that even the count would be right.
    """
    chance = random.Random(READINGS)
    served: Any = None
    left = 0

    def between() -> None:
        nonlocal left
        ids = live_ids(served)
        if left and len(ids) > 1:
            left -= 1
            revoke(served, chance.choice(ids))

    served = serve(Dialect.CORE_NEWEST, around=partial(paged, between))
    workspace = served.workspace()
    for number in range(READINGS):
        served.sandbox.seed(f"key-{number}-{n}" for n in range(chance.randint(2, 3 * PAGE)))
        left = chance.randint(1, 2)
        observed = workspace.observe()
        assert isinstance(observed.roles, HiddenRoles)
        ids = [key.id for key in observed.keys]
        assert len(set(ids)) == len(ids)
        assert set(live_ids(served)) <= set(ids)
        served.sandbox.forget()


def test_the_last_key_is_not_lost_with_its_cursor(serve) -> None:
    """The count of the empty page is that of the keys that came, though one of them is missing."""
    served: Any = None

    def between() -> None:
        if len(live_ids(served)) == PAGE + 1:
            revoke(served, live_ids(served)[PAGE - 1])

    served = serve(Dialect.CORE_NEWEST, around=partial(paged, between))
    workspace = served.workspace()
    served.sandbox.seed(["a", "b", "c", "d"])
    assert {key.id for key in workspace.observe().keys} == set(live_ids(served))


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE_NEWEST])
def test_keys_created_between_two_pages_do_not_start_a_list_again(serve, dialect) -> None:
    """Another run that creates keys does not keep this one from listing them."""
    served: Any = None
    late = iter(range(3))

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if request.query.get("starting_after") and next(late, None) is not None:
            served.sandbox.seed(["late", "later"])
        return paged(lambda: None, request, answer)

    served = serve(dialect, around=around)
    count = 130 if dialect is Dialect.LEGACY else 7
    before = set(served.sandbox.seed(f"key-{n}" for n in range(count)))
    workspace = served.workspace()
    assert before <= {key.id for key in workspace.observe().keys}
    firsts = [one for one in served.journal if "limit=" in one.path and "after" not in one.path]
    assert len(firsts) == (1 if dialect is Dialect.LEGACY else 2)


def test_a_list_that_always_moves_is_an_error_and_never_taken_for_whole(serve) -> None:
    """After five readings the environment fails, and says that the list kept changing."""
    served: Any = None
    served = serve(
        Dialect.CORE_NEWEST,
        around=partial(paged, lambda: revoke(served, live_ids(served)[PAGE - 1])),
    )
    workspace = served.workspace()
    served.sandbox.seed(f"key-{n}" for n in range(20))
    with pytest.raises(WorkspaceError) as caught:
        workspace.observe()
    assert caught.value.code == "unexpected_answer"
    assert "kept changing" in caught.value.message
    assert sum(one.path == f"{LIST}?limit=200" for one in served.journal) == 5


def test_a_stop_ends_the_readings_of_a_list_that_moves(serve, hurried) -> None:
    """No further reading begins after a stop."""
    stop = hurried()
    served: Any = None

    def between() -> None:
        revoke(served, live_ids(served)[PAGE - 1])
        stop.request()

    served = serve(Dialect.CORE_NEWEST, around=partial(paged, between))
    workspace = served.workspace(stop=stop)
    served.sandbox.seed(f"key-{n}" for n in range(20))
    with pytest.raises(WorkspaceError) as caught:
        workspace.observe()
    assert caught.value.code == "stopped"
    assert sum(one.path == f"{LIST}?limit=200" for one in served.journal) == 1


# Limits and credits


@pytest.mark.parametrize("path", ["/rest", "/metadata"])
def test_rate_limited_requests_are_sent_again(serve, path) -> None:
    """`RATE_LIMITED` of REST and of GraphQL is a refusal before the request was handled."""
    refused: list[str] = []

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        if request.path.startswith(path) and len(refused) < 3:
            refused.append(request.path)
            return rate_limited(request, wait_ms=20, requests=100_000)
        return answer(request)

    served = serve(Dialect.CORE_NEWEST, around=around)
    workspace = served.workspace()
    workspace.observe()
    assert len(refused) == 3
    outcomes = create(workspace, served, "a", "b", "c")
    assert all(isinstance(one, Created) for one in outcomes.values())
    assert sorted(key.name for key in served.sandbox.keys()) == ["a", "b", "c"]


def test_spent_credits_end_the_environment(serve) -> None:
    """402 has its own code, is not repeated, and nothing more is sent."""
    spent = False

    def around(request: Request, answer: Callable[[Request], Response]) -> Response:
        return spent_credits(request) if spent else answer(request)

    served = serve(Dialect.CORE_NEWEST, around=around)
    workspace = served.workspace()
    [key_id] = served.sandbox.seed(["old"])
    workspace.observe()
    served.journal.clear()
    spent = True
    outcomes = create(workspace, served, "a")
    assert isinstance(one := outcomes["a"], NotCreated)
    assert one.failure.code == "credits_spent"
    assert "402" in one.failure.message
    for request in (
        workspace.observe,
        lambda: workspace.mint(key_id, NEW_END),
        lambda: workspace.revoke(key_id),
    ):
        with pytest.raises(WorkspaceError) as caught:
            request()
        assert caught.value.code == "credits_spent"
    assert len(served.journal) == 1


# Documents


@pytest.mark.parametrize("dialect", Dialect)
def test_no_change_undoes_a_revocation(serve, dialect) -> None:
    """`revokedAt: null` in an update would, so no body has it and a revoked key stays revoked."""
    served = serve(dialect)
    workspace = served.workspace()
    create(workspace, served, "a", "b", "c")
    for key in served.sandbox.keys():
        workspace.set_expiry(key.id, NEW_END)
        if dialect is not Dialect.LEGACY:
            workspace.assign_role(key.id, served.sandbox.role("Integrations").id)
        workspace.revoke(key.id)
        workspace.set_expiry(key.id, NEW_END)
    assert all(key.revoked_at for key in served.sandbox.keys())
    assert served.writes()
    assert not any(b'"revokedAt":null' in one.body.replace(b" ", b"") for one in served.journal)
    assert not any(b"revokedAt:null" in one.body for one in served.journal)


@pytest.mark.parametrize("dialect", [Dialect.CORE, Dialect.CORE_NEWEST])
def test_a_document_has_few_root_fields_and_none_twice(serve, dialect) -> None:
    """2.x refuses more than ten, and any twice; only the question whether it does asks for two."""
    served = serve(dialect)
    workspace = served.workspace("sign-in")
    create(workspace, served, *(f"key-{n}" for n in range(25)))
    depths = {key.id: 2 for key in workspace.observe().keys}
    workspace.records(depths)
    workspace.capabilities()
    key_id = next(iter(depths))
    workspace.verify_token(workspace.mint(key_id, NEW_END))
    workspace.set_expiry(key_id, NEW_END)
    workspace.assign_role(key_id, served.sandbox.role("Integrations").id)
    workspace.revoke(key_id)
    twice = []
    for one in served.journal:
        if one.path != "/metadata":
            continue
        [operation] = parse(json.loads(one.body)["query"]).definitions
        assert isinstance(operation, OperationDefinitionNode)
        names = [field.name.value for field in operation.selection_set.selections]
        assert len(names) <= 10
        if len(set(names)) < len(names):
            twice.append(names)
    assert twice == [["createApiKey", "createApiKey"]]
