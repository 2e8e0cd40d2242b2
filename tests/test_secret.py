"""Secrets hide."""

import traceback

from provisioner.desired import ApiToken, Environment, SignIn
from provisioner.secret import Secret

CANARY = "canary-5f1c"


def test_a_secret_shows_itself_nowhere_but_when_revealed() -> None:
    """Printing, formatting, holding it in a dataclass or failing with it shows a mask."""
    secret = Secret(CANARY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret]  # noqa: UP031
    shown += [repr(ApiToken(secret)), repr(SignIn(secret, secret))]
    shown += [
        str(ValueError(secret)),
        repr(Environment(name="a", url="b", headers=(("x", secret),))),
    ]
    try:
        int(secret)  # type: ignore[call-overload]
    except TypeError:
        shown.append(traceback.format_exc())
    assert not [text for text in shown if CANARY in text]
    assert secret.reveal() == CANARY
