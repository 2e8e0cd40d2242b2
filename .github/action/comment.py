"""Writes the plan into one comment on the pull request, which later runs update.

If the comment cannot be written, the step prints a warning and succeeds: the summary of the job
shows the plan as well.
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

MAX_LENGTH = 65_536
"""Characters that GitHub accepts in a comment."""

MAX_PAGES = 100
"""Pages of a hundred comments to search for the comment of an earlier run."""

TIMEOUT = 30
"""Seconds to wait for a response from GitHub."""

EXIT_CODES = {
    3: "invalid manifests or configuration",
    4: "incomplete",
    5: "refused by a guard",
    6: "the plan file is out of date",
    64: "wrong usage",
}
"""Exit codes of provision, with their meanings."""


class GitHubError(Exception):
    """A request to GitHub failed; the text is the reason.

    Args:
        text: the reason.
        status: the status of the response; None if there was no response, or an invalid one.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


def main() -> int:
    """Write the comment on this pull request, and return 0 even if that fails."""
    try:
        number = pull_request()
        if number is None:
            print("No pull request to comment on.")
        else:
            print(write(GitHub(), number, marker()))
    except GitHubError as error:
        text = str(error)
        if error.status in (403, 404):
            text += (
                " The job needs `permissions: {pull-requests: write}`, which pull requests from "
                "forks never get."
            )
        text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::warning title=provision::Cannot comment on the pull request: {text}")
    return 0


def pull_request() -> int | None:
    """Return the number of the event's pull request; None if the event has none."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    issue = event.get("issue") or {}
    found = event.get("pull_request") or (issue if issue.get("pull_request") else {})
    return found.get("number")


def marker() -> str:
    """Return the hidden first line that identifies the comment for these inputs."""
    folder = Path(os.environ.get("INPUT_WORKING_DIRECTORY") or ".")
    manifests = os.path.normpath(folder / (os.environ.get("INPUT_MANIFESTS") or "manifests"))
    inputs = {"manifests": Path(manifests).as_posix()}
    for name in ("environment", "only"):
        if words := os.environ.get(f"INPUT_{name.upper()}", "").split():
            inputs[name] = " ".join(words)
    # Two dashes would end the HTML comment.
    return f"<!-- provision plan {urlencode(inputs).replace('-', '%2D')} -->"


def write(github: GitHub, number: int, first_line: str) -> str:
    """Update the comment of an earlier run, or create one.

    Returns:
        one line for the log that says what was done.
    """
    body = comment_body(first_line)
    found = find_comment(github, number, first_line)
    if found is None:
        created = github.request("POST", f"/issues/{number}/comments", {"body": body})
        if not isinstance(created, dict):
            raise GitHubError("GitHub's response is not a comment.")
        return f"Commented on #{number}: {created.get('html_url')}"
    if found.get("body", "").replace("\r\n", "\n") == body:
        return f"The comment on #{number} is up to date: {found.get('html_url')}"
    github.request("PATCH", f"/issues/comments/{int(found['id'])}", {"body": body})
    return f"Updated the comment on #{number}: {found.get('html_url')}"


def find_comment(github: GitHub, number: int, first_line: str) -> dict[str, Any] | None:
    """Return the oldest comment of the action's own account with this first line, or None.

    Anyone can write that line into a comment. A comment of another user is skipped, because its
    author could change the plan in it afterwards.
    """
    for page in range(1, MAX_PAGES + 1):
        path = f"/issues/{number}/comments?per_page=100&page={page}"
        comments = github.request("GET", path)
        if not isinstance(comments, list) or not all(isinstance(one, dict) for one in comments):
            raise GitHubError("GitHub's response is not a list of comments.")
        for comment in comments:
            if str(comment.get("body") or "").startswith(first_line):
                author = comment.get("user") or {}
                if author.get("type") == "Bot" or author.get("login") == github.login():
                    return dict(comment)
        if len(comments) < 100:  # noqa: PLR2004 - this is the last page
            return None
    return None


def comment_body(first_line: str) -> str:
    """Return the marker, the report and its origin. Shorten a long report at the end of a line."""
    file = os.environ.get("REPORT")
    report = Path(file).read_text(encoding="utf-8").strip() if file else ""
    if not report:
        report = "**No plan was created.** See the log of the run."
    origin = [f"From [this run]({run_address()}) for commit {commit()}."]
    code = int(os.environ.get("EXIT_CODE") or 0)
    if code:
        command = os.environ.get("COMMAND") or "plan"
        meaning = EXIT_CODES.get(code, "failed")
        origin.append(f"`provision {command}` exited with code {code}: {meaning}.")
    head, foot = f"{first_line}\n", f"\n\n{' '.join(origin)}\n"
    available = MAX_LENGTH - len(head) - len(foot)
    return head + (report if len(report) <= available else shorten(report, available)) + foot


def shorten(report: str, length: int) -> str:
    """Return as many whole lines as fit, and a note that says how many are missing."""
    lines = report.split("\n")
    note = "\n\n**Truncated**: {} of {} lines are only in the summary of the run."
    length -= len(note.format(len(lines), len(lines)))
    count = 0
    for line in lines:
        length -= len(line) + 1
        if length < 0:
            break
        count += 1
    return "\n".join(lines[:count]) + note.format(len(lines) - count, len(lines))


def commit() -> str:
    """Return the head commit of the pull request, or else GITHUB_SHA, shortened.

    For a pull request, GITHUB_SHA is a merge commit that GitHub creates only for the run.
    """
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    head = (event.get("pull_request") or {}).get("head") or {}
    return str(head.get("sha") or os.environ.get("GITHUB_SHA", ""))[:12]


def run_address() -> str:
    """Return the URL of this run."""
    server, repository = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_REPOSITORY"]
    return f"{server}/{repository}/actions/runs/{os.environ['GITHUB_RUN_ID']}"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Handler that follows no redirect, which could send the token to another host."""

    def redirect_request(self, *_: object) -> None:
        """Return None, so that the redirect becomes an error."""


class GitHub:
    """The part of GitHub's REST API that the action uses, for one repository."""

    def __init__(self) -> None:
        self._api = os.environ["GITHUB_API_URL"].rstrip("/")
        self._repository = os.environ["GITHUB_REPOSITORY"]
        self._token = os.environ.get("INPUT_GITHUB_TOKEN", "").strip()
        self._login: str | None = None
        self._opener = urllib.request.build_opener(NoRedirect)
        if not self._token:
            raise GitHubError("The input `github-token` is empty.")
        address = urlsplit(self._api)
        if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise GitHubError(f"The address of GitHub's API, {self._api}, is not https.")

    def login(self) -> str:
        """Return the token's user name; empty for a workflow's own token, which has no user."""
        if self._login is None:
            try:
                self._login = str(self._send("GET", f"{self._api}/user").get("login") or "")
            except GitHubError:
                self._login = ""
        return self._login

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request about the repository and return the JSON in its response.

        Raises:
            GitHubError: GitHub refused it, or its response is not JSON.
        """
        return self._send(method, f"{self._api}/repos/{self._repository}{path}", body)

    def _send(self, method: str, url: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)  # noqa: S310 - https, see above
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("Content-Type", "application/json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        # An unredirected header never reaches another host, whatever a proxy answers.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise refusal(error.code) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise GitHubError(f"{method} failed: {error!r}.") from None


def refusal(status: int) -> GitHubError:
    """Return the error for a status that is not a success."""
    if status == 401:  # noqa: PLR2004 - a status
        return GitHubError("GitHub does not accept `github-token` (401).", status)
    return GitHubError(f"GitHub responded with status {status}.", status)


if __name__ == "__main__":
    sys.exit(main())
