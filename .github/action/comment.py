"""Shows the plan as one comment of the pull request, made once and updated from then on.

A comment that cannot be written is a warning: the plan stands in the job's summary as well.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

LONGEST = 65_536
"""Characters of a comment that GitHub takes."""

PAGES = 100
"""Pages of a hundred comments that are looked through for ours."""

SECONDS = 30
MEANINGS = {
    3: "invalid manifests or configuration",
    4: "incomplete",
    5: "refused by a guard",
    6: "the plan file is stale",
    64: "wrong usage",
}


class NotWrittenError(Exception):
    """The comment cannot be written; the text says why."""


def main() -> int:
    """Writes the comment of this pull request; 0 whatever comes of it."""
    try:
        number = pull_request()
        if number is None:
            print("No pull request, so no comment.")
        else:
            print(write(GitHub(), number, marker()))
    except NotWrittenError as error:
        text = str(error).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::warning title=provision::The plan is not on the pull request: {text}")
    return 0


def pull_request() -> int | None:
    """The number of the pull request that the event is about."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    issue = event.get("issue") or {}
    found = event.get("pull_request") or (issue if issue.get("pull_request") else {})
    return found.get("number")


def marker() -> str:
    """The hidden line by which the comment of these manifests and this selection is known."""
    place = Path(os.environ.get("INPUT_WORKING_DIRECTORY") or ".")
    manifests = os.path.normpath(place / (os.environ.get("INPUT_MANIFESTS") or "manifests"))
    named = {"manifests": Path(manifests).as_posix()}
    for name in ("environment", "only"):
        if words := os.environ.get(f"INPUT_{name.upper()}", "").split():
            named[name] = " ".join(words)
    # A comment of HTML ends at two dashes.
    return f"<!-- provision plan {urlencode(named).replace('-', '%2D')} -->"


def write(github: GitHub, number: int, mark: str) -> str:
    """Updates our comment, or makes the first.

    Returns:
        What was done, as one line.
    """
    body = text_of_comment(mark)
    found = ours(github, number, mark)
    if found is None:
        made = github.ask("POST", f"/issues/{number}/comments", {"body": body})
        if not isinstance(made, dict):
            raise NotWrittenError("GitHub answered with no comment.")
        return f"Commented on #{number}: {made.get('html_url')}"
    if found.get("body", "").replace("\r\n", "\n") == body:
        return f"The comment on #{number} says so already: {found.get('html_url')}"
    github.ask("PATCH", f"/issues/comments/{int(found['id'])}", {"body": body})
    return f"Updated the comment on #{number}: {found.get('html_url')}"


def ours(github: GitHub, number: int, mark: str) -> dict[str, Any] | None:
    """The oldest comment that begins with our line and that we wrote.

    Anyone may write that line. What people wrote is left to them, or a stranger's comment would
    be shown as the plan and could be changed afterwards.
    """
    for page in range(1, PAGES + 1):
        path = f"/issues/{number}/comments?per_page=100&page={page}"
        comments = github.ask("GET", path)
        if not isinstance(comments, list) or not all(isinstance(one, dict) for one in comments):
            raise NotWrittenError("GitHub answered with no list of comments.")
        for comment in comments:
            if str(comment.get("body") or "").startswith(mark):
                author = comment.get("user") or {}
                if author.get("type") == "Bot" or author.get("login") == github.login():
                    return dict(comment)
        if len(comments) < 100:  # noqa: PLR2004 - the page that was asked for is not full
            return None
    return None


def text_of_comment(mark: str) -> str:
    """The report between our line and where it comes from, cut at a line where it is too long."""
    file = os.environ.get("REPORT")
    report = Path(file).read_text(encoding="utf-8").strip() if file else ""
    if not report:
        report = "**No plan was made.** The log of the run says why."
    below = [f"Of commit {commit()}, [this run]({run_address()})."]
    code = int(os.environ.get("EXIT_CODE") or 0)
    if code:
        command = os.environ.get("COMMAND") or "plan"
        below.append(f"`provision {command}` ended with {code}: {MEANINGS.get(code, 'failed')}.")
    head, foot = f"{mark}\n", f"\n\n{' '.join(below)}\n"
    room = LONGEST - len(head) - len(foot)
    return head + (report if len(report) <= room else shortened(report, room)) + foot


def shortened(report: str, room: int) -> str:
    """As many whole lines as there is room for, and how many are missing."""
    lines = report.split("\n")
    note = "\n\n**Cut here**: {} of {} lines are in the summary of the run alone."
    room -= len(note.format(len(lines), len(lines)))
    kept = 0
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept += 1
    return "\n".join(lines[:kept]) + note.format(len(lines) - kept, len(lines))


def commit() -> str:
    """The head of the pull request: GITHUB_SHA is of a merge that nobody made."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    head = (event.get("pull_request") or {}).get("head") or {}
    return str(head.get("sha") or os.environ.get("GITHUB_SHA", ""))[:12]


def run_address() -> str:
    """The page of this run."""
    server, repository = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_REPOSITORY"]
    return f"{server}/{repository}/actions/runs/{os.environ['GITHUB_RUN_ID']}"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token would go along."""

    def redirect_request(self, *_: object) -> None:
        """No request."""


class GitHub:
    """GitHub's REST API, as far as comments need it."""

    def __init__(self) -> None:
        self._api = os.environ["GITHUB_API_URL"].rstrip("/")
        self._repository = os.environ["GITHUB_REPOSITORY"]
        self._token = os.environ.get("INPUT_GITHUB_TOKEN", "").strip()
        self._login: str | None = None
        self._opener = urllib.request.build_opener(NoRedirect)
        if not self._token:
            raise NotWrittenError("there is no github-token.")
        address = urlsplit(self._api)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise NotWrittenError(f"{self._api} is not https.")

    def login(self) -> str:
        """The account of the token; of an installation, as of a workflow's own token, none."""
        if self._login is None:
            try:
                self._login = str(self._send("GET", f"{self._api}/user").get("login") or "")
            except NotWrittenError:
                self._login = ""
        return self._login

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer to a request on the repository, read as JSON."""
        return self._send(method, f"{self._api}/repos/{self._repository}{path}", body)

    def _send(self, method: str, url: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)  # noqa: S310 - https, see above
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("Content-Type", "application/json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        # Unredirected, and so at no other host whatever a proxy answers.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise NotWrittenError(why(error.code)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NotWrittenError(f"{method} failed: {error!r}.") from None


def why(status: int) -> str:
    """What a status means, and what to do."""
    if status in (403, 404):
        return (
            f"GitHub answered {status}. The job needs `permissions: {{pull-requests: write}}`, "
            "and the token of a pull request from a fork never has it."
        )
    if status == 401:  # noqa: PLR2004 - a status
        return "GitHub does not accept github-token (401)."
    return f"GitHub answered {status}."


if __name__ == "__main__":
    sys.exit(main())
