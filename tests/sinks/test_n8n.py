"""Credentials of n8n, against a server that answers as recordings of real versions show."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from n8n_server import N8nServer, recorded
from tls_server import HttpRequest, HttpResponse

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import Unreadable
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret
from provisioner.sinks import n8n
from provisioner.sinks.n8n import N8n, N8nAddress
from provisioner.sinks.probe import check_all, read_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.sinks.sink import Sink

NEW, OLD = "2.40.7", "2.8.4"


NOT_IMITATED = {"get", "get-unknown", "unknown-path", "outside", "schema-wrong", "update-deleted"}
"""Recorded answers to requests that the sink does not send, or after a deletion."""


class N8nBackend(Backend):
    readable = False

    def __init__(self, server: N8nServer) -> None:
        self.server = server
        self.credential = server.key
        self.declared: tuple[N8nAddress, ...] = ()
        self.environment = {
            "N8N_URL": server.url,
            "N8N_API_KEY": server.key,
            "REQUESTS_CA_BUNDLE": server.ca_file,
        }
        for place in range(10):
            server.add(f"id{place}", f"Twenty {place}", domain="crm.acme.example")

    def open_sink(self, address: N8nAddress) -> Sink:
        return N8n(self.environment, lambda _: None, self.declared).sink(address)

    def sink(self, place: int = 0) -> Sink:
        return self.open_sink(twenty(f"Twenty {place}"))

    def data(self, id_: str) -> dict[str, str]:
        return next(one["data"] for one in self.server.credentials if one["id"] == id_)

    def stored(self, place: int = 0) -> str | None:
        return self.data(f"id{place}").get("apiKey")

    def strange_names(self) -> tuple[Sink, ...]:
        names = ("é 1/../😀", "Twenty: a, b & 100 %")
        for name in names:
            self.server.add(f"id of {name}", name)
        return tuple(self.open_sink(twenty(name)) for name in names)

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.server.allowed = False
        yield
        self.server.allowed = True

    def unreachable(self):
        return self.server.silent()

    @contextmanager
    def wrong_credential(self) -> Iterator[None]:
        self.environment["N8N_API_KEY"] = self.credential = "n8n-wrongCanary"
        yield


@pytest.fixture
def backend() -> Iterator[N8nBackend]:
    with N8nServer(NEW) as server:
        yield N8nBackend(server)


@pytest.fixture
def old() -> Iterator[N8nBackend]:
    with N8nServer(OLD) as server:
        yield N8nBackend(server)


class TestN8n(Compliance):
    """The promises of every sink."""


def twenty(credential: str, type_: str = "twentyApi", field: str = "apiKey") -> N8nAddress:
    return N8nAddress(credential, type_, field)


def shape(body: Any) -> Any:
    """Return what two answers have in common: messages, names, types and order, but no times."""
    if not isinstance(body, dict) or "data" not in body:
        names = ("id", "name", "type", "message", "properties", "required")
        return {name: body[name] for name in names if name in body}
    return [shape(one) for one in body["data"]], body["nextCursor"] is None


def replayed(server: N8nServer, lines: Iterable[dict[str, Any]]) -> int:
    """Send what was recorded, assert the recorded answers, and return how many were compared."""
    compared = 0
    for line in lines:
        if (ids := line.get("ids")) is not None:
            data = {one["id"]: one["data"] for one in server.credentials}
            assert {kind: data[id_] for kind, id_ in ids.items()} == line["stored"]
            continue
        request, response = line["request"], line["response"]
        made = response["body"] if request["method"] == "POST" else {}
        if "id" in made:
            server.add(made["id"], made["name"], made["type"], **request["body"]["data"])
        if request["method"] not in ("GET", "PATCH", "PUT") or line["name"] in NOT_IMITATED:
            continue
        if request["key"] not in ("all", "wrong") or line["name"] == "disabled":
            continue
        key = server.key if request["key"] == "all" else "wrong"
        raw = json.dumps(request.get("body", {})).encode()
        headers = {"X-N8N-API-KEY": key}
        answer = server.answer(HttpRequest(request["method"], request["path"], headers, raw))
        assert (line["name"], answer.status) == (line["name"], response["status"])
        assert shape(answer.body) == shape(response["body"]), line["name"]
        compared += 1
    return compared


def error_of(sink: Sink, step: str = "check") -> SinkError:
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST)) if step == "write" else getattr(sink, step)()
    assert FIRST not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def test_the_other_fields_are_kept(backend: N8nBackend) -> None:
    """An update replaces the field of the token only."""
    backend.sink().write(Secret(FIRST))
    assert backend.data("id0") == {"domain": "crm.acme.example", "apiKey": FIRST}


def test_an_id_is_understood(backend: N8nBackend) -> None:
    """A credential may be named by its id, which wins over a name."""
    backend.server.add("other", "id1")
    backend.open_sink(twenty("id1")).write(Secret(FIRST))
    assert backend.stored(1) == FIRST
    assert backend.data("other") == {}


def test_the_time_moves_for_other_reasons(backend: N8nBackend) -> None:
    """The time of the last change is reported by the local clock, but is no evidence."""
    backend.server.clock_skew = timedelta(hours=1)
    backend.server.credentials[0]["updatedAt"] = "2026-11-29T09:32:31.476Z"
    content = backend.sink().read()
    assert isinstance(content, Unreadable)
    assert not content.only_writes
    assert f"{content.updated_at:%H:%M}" == "08:32"


def test_a_name_must_be_unique(backend: N8nBackend) -> None:
    """Of two credentials with the name, none is chosen; the error has the ids to choose from."""
    backend.server.add("twin", "Twenty 0")
    backend.server.add("bearer", "Twenty 1", "httpBearerAuth")
    for step in ("check", "read", "write"):
        error = error_of(backend.sink(), step)
        assert error.code == "sink_unsuitable"
        assert "twin, id0" in error.remedy
    backend.sink(1).check()  # another type is another credential
    assert backend.stored() is None


def test_credentials_are_found_on_every_page(backend: N8nBackend) -> None:
    """A credential beyond the first page of the list is found."""
    for number in range(250):
        backend.server.add(f"more{number}", f"More {number}")
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST


def test_a_name_and_an_id_of_one_credential_are_refused(backend: N8nBackend) -> None:
    """Two declared sinks that lead to the same field are found before a token is minted."""
    backend.declared = (twenty("id0"), twenty("Twenty 0"), twenty("Twenty 0", field="domain"))
    error = error_of(backend.sink())
    assert error.code == "sink_unsuitable"
    assert "n8n id0 apiKey" in error.message
    backend.sink(1).check()


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        (twenty("No"), "sink_missing", "Create it in n8n"),
        (twenty("Twenty 0", "httpBearerAuth", "token"), "sink_missing", "httpBearerAuth"),
        (twenty("Twenty 0", field="token"), "sink_unsuitable", "domain, apiKey"),
        (twenty("Twenty 0", "nothingApi"), "sink_unsuitable", "install the node"),
        (twenty("Notice", "httpBearerAuth", "useCustomAuth"), "sink_unsuitable", "token"),
    ],
)
def test_a_wrong_address_is_refused_by_the_check(
    backend: N8nBackend, address: N8nAddress, code: str, said: str
) -> None:
    """The check finds a wrong name, type or field before a token is minted."""
    backend.server.add("notice", "Notice", "httpBearerAuth")
    if address.type == "nothingApi":
        backend.server.add("id", "Twenty 0", "nothingApi")
    error = error_of(backend.open_sink(address))
    assert error.code == code
    assert said in f"{error.message} {error.remedy}"


def test_a_check_writes_nothing(backend: N8nBackend) -> None:
    """The tried update has an id that no credential has, and no token."""
    backend.sink().check()
    before = [one["updatedAt"] for one in backend.server.credentials]
    backend.sink().check()
    assert [one["updatedAt"] for one in backend.server.credentials] == before
    [tried, _] = [one for one in backend.server.requests if one.method == "PATCH"]
    assert tried.names[-1] == "provision-check"


@pytest.mark.parametrize("step", ["check", "write"])
def test_an_older_version_that_wants_all_fields_is_refused(old: N8nBackend, step: str) -> None:
    """Before 2.36 n8n refuses an update without required fields; the check says so."""
    error = error_of(old.sink(), step)
    assert error.code == "sink_unsuitable"
    assert "2.36" in error.remedy
    assert old.data("id0") == {"domain": "crm.acme.example"}


def test_an_older_version_updates_other_types(old: N8nBackend) -> None:
    """A type without required fields is updated by older versions, too."""
    old.server.add("header", "Header", "httpHeaderAuth", name="Authorization")
    sink = old.open_sink(twenty("Header", "httpHeaderAuth", "value"))
    sink.check()
    sink.write(Secret(FIRST))
    assert old.data("header") == {"name": "Authorization", "value": FIRST}


def test_a_starting_server_is_waited_for(backend: N8nBackend) -> None:
    """The text that n8n sends with status 200 while it starts is not an answer."""
    backend.server.outcomes = [backend.server.replay("starting")] * 2
    backend.sink().write(Secret(FIRST))
    assert backend.stored() == FIRST
    backend.server.outcomes = [backend.server.replay("starting")] * 20
    error = error_of(backend.sink())
    assert (error.code, "starting up" in error.message) == ("sink_unavailable", True)


@pytest.mark.parametrize("name", ["disabled", "outside"])
def test_an_older_version_without_the_api_is_reported(old: N8nBackend, name: str) -> None:
    """A page with 404, as without the public API, is reported as that."""
    old.server.outcomes = [old.server.replay(name)]
    error = error_of(old.sink())
    assert error.code == "sink_unavailable"
    assert "N8N_URL" in error.remedy


def test_a_page_is_not_an_answer(backend: N8nBackend) -> None:
    """The page of the editor, which newer versions send with 200, is no list of credentials."""
    backend.server.outcomes = [backend.server.replay("outside")]
    error = error_of(backend.sink())
    assert (error.code, "not JSON" in error.message) == ("sink_unavailable", True)


@pytest.mark.parametrize(
    ("variable", "code"), [("N8N_URL", "sink_missing"), ("N8N_API_KEY", "sink_denied")]
)
def test_a_missing_variable_is_named(backend: N8nBackend, variable: str, code: str) -> None:
    """Nothing is sent, and the error says which variable to set."""
    backend.environment[variable] = " "
    error = error_of(backend.sink())
    assert (error.code, variable in f"{error.message}{error.remedy}") == (code, True)
    assert backend.server.requests == []


def test_the_address_may_be_that_of_the_api(backend: N8nBackend) -> None:
    """`N8N_URL` may end in a slash, or in the path of the API."""
    for end in ("/", "/api/v1", "/api/v1/"):
        backend.environment["N8N_URL"] = backend.server.url + end
        backend.sink().check()


def test_a_deleted_credential_is_missing(backend: N8nBackend) -> None:
    """A credential that is deleted between the list and the update is not created again."""
    listed = backend.server.answer
    backend.server.outcomes = []

    def deletes(request):
        answer = listed(request)
        backend.server.credentials = []
        return answer

    backend.server.answer = deletes  # type: ignore[method-assign]
    assert error_of(backend.sink(), "write").code == "sink_missing"


def test_a_lost_answer_is_repeated(backend: N8nBackend) -> None:
    """An update whose answer was lost is sent again, and leaves the same token."""
    backend.sink().write(Secret(FIRST))
    backend.server.outcomes = [backend.server.replay("starting"), "lose", None, "lose"]
    backend.sink().write(Secret(SECOND))
    assert backend.stored() == SECOND


def listings(server: N8nServer) -> int:
    """Return how often the first page was requested."""
    return sum(
        one.method == "GET" and one.target.endswith("s?limit=250") for one in server.requests
    )


def page(cursor: object, *credentials: object) -> HttpResponse:
    return HttpResponse(200, {"data": [*credentials], "nextCursor": cursor})


def test_a_repeated_cursor_ends_the_list(backend: N8nBackend) -> None:
    """A server or proxy that always sends the same page is reported, instead of asked forever."""
    backend.server.outcomes = [page("a"), page("b"), page("a"), page(None)]
    error = error_of(backend.sink())
    assert (error.code, "does not end" in error.message) == ("sink_unavailable", True)
    assert len(backend.server.requests) == 3


def test_an_endless_list_ends(backend: N8nBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list with ever new cursors is reported after as many pages as no n8n has."""
    monkeypatch.setattr(n8n, "_MAX_PAGES", 3)
    backend.server.outcomes = [page(number) for number in range(1, 9)]
    error = error_of(backend.sink())
    assert (error.code, "does not end" in error.message) == ("sink_unavailable", True)
    assert len(backend.server.requests) == 3


@pytest.mark.parametrize(
    "entry", ["text", None, [], {}, {"id": "a", "name": "b"}, {"id": [], "name": "b", "type": "c"}]
)
def test_a_strange_entry_is_no_list(backend: N8nBackend, entry: object) -> None:
    """An answer that no n8n gives is an error of the sink, and not of this program."""
    backend.server.outcomes = [page(None, entry)]
    error = error_of(backend.sink(), "read")
    assert (error.code, "N8N_URL" in error.remedy) == ("sink_unavailable", True)


@pytest.mark.parametrize(
    "timestamp",
    ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "no", 5],
)
def test_an_impossible_time_is_unknown(backend: N8nBackend, timestamp: object) -> None:
    """A time beyond the calendar is as good as none."""
    backend.server.clock_skew = timedelta(hours=1)
    backend.server.credentials[0]["updatedAt"] = timestamp
    assert backend.sink().read() == Unreadable(None, only_writes=False)


def test_a_strange_schema_has_no_such_field(backend: N8nBackend) -> None:
    """A field whose schema is not an object is not a field of text."""
    fields = {"apiKey": "string", "domain": {"type": "string"}}
    backend.server.outcomes = [
        page(None, {"id": "id0", "name": "Twenty 0", "type": "twentyApi"}),
        HttpResponse(200, {"properties": fields}),
    ]
    error = error_of(backend.sink())
    assert (error.code, error.remedy.endswith("`field`: domain.")) == ("sink_unsuitable", True)


def test_all_sinks_share_a_list(backend: N8nBackend) -> None:
    """Reading and checking the sinks of a run lists the credentials once."""
    addresses = [twenty(f"Twenty {place}") for place in range(10)]
    open_sink = N8n(backend.environment, lambda _: None, addresses).sink
    contents = read_all(addresses, open_sink, Cancellation())
    assert not check_all(addresses, open_sink, Cancellation())
    assert {type(one) for one in contents.values()} == {Unreadable}
    assert listings(backend.server) == 1


def test_a_second_read_shows_changes(backend: N8nBackend) -> None:
    """A sink that is read again, for example after a wait for other runs, is read anew."""
    run = N8n(backend.environment, lambda _: None)
    sink, other = run.sink(twenty("Twenty 0")), run.sink(twenty("Twenty 1"))
    sink.read()
    for number in (0, 1):
        backend.server.credentials[number]["updatedAt"] = "2026-11-29T09:32:31.476Z"
    content = sink.read()
    assert isinstance(content, Unreadable)
    assert f"{content.updated_at:%H:%M:%S}" == "09:32:31"
    assert other.read() == content
    assert listings(backend.server) == 2


def test_a_read_after_a_write_is_new(backend: N8nBackend) -> None:
    """The time of a write is never that of a list from before; other sinks share the new list."""
    for one in backend.server.credentials:
        one["updatedAt"] = "2026-01-01T00:00:00.000Z"
    run = N8n(backend.environment, lambda _: None)
    sinks = [run.sink(twenty(f"Twenty {place}")) for place in (0, 1)]
    sinks[0].check()
    for sink in sinks:
        sink.write(Secret(FIRST))
    contents = [sink.read() for sink in sinks]
    assert all(isinstance(one, Unreadable) and one.updated_at for one in contents)
    assert Unreadable(datetime(2026, 1, 1, tzinfo=UTC), only_writes=False) not in contents
    assert listings(backend.server) == 2


def test_an_old_list_is_not_used(backend: N8nBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential that was renamed during a long run gets no token for its former name."""
    monkeypatch.setattr(n8n, "_MAX_AGE", -1.0)
    sink = backend.sink()
    sink.check()
    backend.server.credentials[0]["name"] = "renamed"
    assert error_of(sink, "write").code == "sink_missing"
    assert backend.stored() is None


def test_a_failed_list_fails_every_sink_that_waits(backend: N8nBackend) -> None:
    """If n8n is down, sinks do not try one after the other, and each error names its own sink."""
    addresses = [twenty(f"Twenty {place}") for place in range(8)]
    arrived = threading.Barrier(len(addresses))
    open_sink = N8n(backend.environment, lambda _: None, addresses).sink
    first = threading.Event()
    answer = backend.server.answer

    def late(request: HttpRequest) -> HttpResponse:
        first.wait(30)
        return answer(request)

    def read(address: N8nAddress) -> SinkError:
        arrived.wait(30)
        return error_of(open_sink(address), "read")

    backend.server.answer = late  # type: ignore[method-assign]
    backend.server.allowed = False
    with ThreadPoolExecutor(len(addresses)) as threads:
        waiting = [threads.submit(read, address) for address in addresses]
        threading.Timer(0.2, first.set).start()
        errors = [one.result() for one in waiting]
    assert {one.code for one in errors} == {"sink_denied"}
    for address, error in zip(addresses, errors, strict=True):
        assert error.message.startswith(f"{address} ")
    assert listings(backend.server) < len(addresses)
    backend.server.allowed = True
    open_sink(addresses[0]).read()


@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_server_answers_as_recorded(version: str) -> None:
    """The server of these tests gives the recorded answers, and stores what the real n8n stored."""
    with N8nServer(version) as server:
        assert replayed(server, recorded(version).values()) > 20
