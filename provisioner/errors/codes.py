"""The codes of errors, problems, reasons and findings; docs/errors.md has a section on each."""

from __future__ import annotations

from enum import StrEnum, auto


class Code(StrEnum):
    """The stable name of an error, in the order of docs/errors.md."""

    # the command line
    FILE_EXISTS = auto()
    NOT_WRITABLE = auto()
    NOT_SERVABLE = auto()
    ENVIRONMENT_UNNAMED = auto()
    DIRECTORY_GONE = auto()
    PLAN_UNREADABLE = auto()
    PLAN_INVALID = auto()
    PLAN_NEWER = auto()
    OUTPUT_FAILED = auto()
    REPORT_UNWRITABLE = auto()
    INVALID_INPUT = auto()
    ROLE_UNSUPPORTED = auto()
    # environments and keys
    # before anything is sent
    ROLE_MISSING = auto()
    ROLE_UNKNOWN = auto()
    ROLE_NOT_ASSIGNABLE = auto()
    # the connection
    UNREACHABLE = auto()
    TLS_FAILED = auto()
    TIMEOUT = auto()
    CONNECTION_LOST = auto()
    OUTCOME_UNKNOWN = auto()
    DUPLICATE_LEFT = auto()
    NOT_SETTLED = auto()
    STOPPED = auto()
    INTERNAL_ERROR = auto()
    SERVER_ERROR = auto()
    RATE_LIMITED = auto()
    CREDITS_SPENT = auto()
    UNEXPECTED_ANSWER = auto()
    REJECTED = auto()
    # credentials
    CREDENTIAL_MISSING = auto()
    CREDENTIAL_INVALID = auto()
    CREDENTIAL_EXPIRED = auto()
    CREDENTIAL_REVOKED = auto()
    SESSION_REQUIRED = auto()
    PERMISSION_DENIED = auto()
    SIGN_IN_FAILED = auto()
    # keys to change, rotate or revoke
    NOT_OWNED = auto()
    OWN_KEY = auto()
    ROTATION_UNDELIVERED = auto()
    ROTATION_RUNNING = auto()
    ROTATION_UNSAID = auto()
    TOKEN_ALIVE = auto()
    # tokens and sinks
    TOKEN_REFUSED = auto()
    NOT_DELIVERED = auto()
    KEY_MISSING = auto()
    SINK_UNAVAILABLE = auto()
    SINK_DENIED = auto()
    SINK_MISSING = auto()
    SINK_UNSUITABLE = auto()
    SINK_EXTRA_MISSING = auto()
    SINK_NOT_ALLOWED = auto()
    CHANGE_UNREVIEWED = auto()
    HOST_NOT_ALLOWED = auto()
    PROGRAM_NOT_RUN = auto()
    SINK_FAILED = auto()
    # guards
    WORKSPACE_MISMATCH = auto()
    WORKSPACE_UNKNOWN = auto()
    WORKSPACE_SHARED = auto()
    TOO_MANY_REVOCATIONS = auto()
    MANIFESTS_VANISHED = auto()
    PROTECTED = auto()
    NOTHING_SELECTED = auto()
    CLOCK_OFF = auto()
    # The embedded Twenty
    SANDBOX_UNUSABLE = auto()
    # reviewed plans
    PLAN_STALE = auto()
    PLAN_APPLIED = auto()
    PLAN_UNCONFIRMED = auto()
    DIGEST_DIFFERS = auto()
    # problems
    # files
    MANIFESTS_MISSING = auto()
    ENVIRONMENTS_MISSING = auto()
    ENVIRONMENTS_MISNAMED = auto()
    FILE_UNREADABLE = auto()
    FILE_UNREAD = auto()
    FILE_TOO_LARGE = auto()
    FILE_ENCODING = auto()
    FILE_LINE_ENDS = auto()
    FILE_EMPTY = auto()
    # YAML
    YAML_SYNTAX = auto()
    YAML_TOO_DEEP = auto()
    YAML_MULTIPLE_DOCUMENTS = auto()
    YAML_ANCHOR = auto()
    YAML_ALIAS = auto()
    YAML_MERGE_KEY = auto()
    YAML_TAG = auto()
    YAML_DUPLICATE_KEY = auto()
    YAML_KEY_TYPE = auto()
    YAML_SURPRISE = auto()
    TOO_MANY_PROBLEMS = auto()
    # shape
    UNKNOWN_KEY = auto()
    MISSING_KEY = auto()
    WRONG_TYPE = auto()
    INVALID_VALUE = auto()
    # manifests
    DEPTH_INVALID = auto()
    NAME_INVALID = auto()
    NAME_ALIKE = auto()
    CHARACTER_UNSEEN = auto()
    NAME_DUPLICATE = auto()
    ENVIRONMENT_BOTH = auto()
    ENVIRONMENT_UNKNOWN = auto()
    ENVIRONMENT_DUPLICATE = auto()
    EXPIRY_INVALID = auto()
    EXPIRY_MISSING = auto()
    EXPIRY_PAST = auto()
    MATRIX_AXIS_INVALID = auto()
    MATRIX_EMPTY = auto()
    MATRIX_COLLISION = auto()
    MATRIX_TOO_LARGE = auto()
    PLACEHOLDER_INVALID = auto()
    PLACEHOLDER_UNKNOWN = auto()
    # rotation
    ROTATION_INVALID = auto()
    ROTATION_EXPIRY = auto()
    ROTATION_UNOWNED = auto()
    # delivery
    SINK_INVALID = auto()
    SINK_COLLISION = auto()
    # policy
    POLICY_LIFETIME = auto()
    POLICY_ROTATION = auto()
    POLICY_ROLE = auto()
    POLICY_NAME = auto()
    POLICY_SINK_FORBIDDEN = auto()
    POLICY_SINK = auto()
    # environments
    ENVIRONMENT_NAME_INVALID = auto()
    URL_INVALID = auto()
    URL_CREDENTIALS = auto()
    URL_INSECURE = auto()
    AUTH_MISSING = auto()
    AUTH_INVALID = auto()
    HEADER_INVALID = auto()
    SECRET_LITERAL = auto()
    SECRET_FILE_UNREADABLE = auto()
    CA_FILE_UNREADABLE = auto()
    CLIENT_CERT_INVALID = auto()
    VARIABLE_INVALID = auto()
    VARIABLE_MISSING = auto()
    # The body of `create`
    BODY_INVALID = auto()
    RECORD_INVALID = auto()
    # reasons
    MISSING = auto()
    DEAD = auto()
    TOKEN_MISSING = auto()
    TOKEN_DEAD = auto()
    TOKEN_EXPIRING = auto()
    TOKEN_INVALID = auto()
    TOKEN_OUTDATED = auto()
    TOKEN_UNPROVEN = auto()
    SINK_UNUSABLE = auto()
    REDELIVER = auto()
    DUE = auto()
    UNDECLARED = auto()
    SUPERSEDED = auto()
    ASKED = auto()
    # findings
    UNMANAGED = auto()
    DUPLICATE = auto()
    DRIFT = auto()
    DELIVERY_UNKNOWN = auto()
    EXPIRING = auto()


_ALL = tuple(Code)
PROBLEM_CODES = _ALL[_ALL.index(Code.MANIFESTS_MISSING) : _ALL.index(Code.MISSING)]
"""The codes of problems in the input."""

WARNINGS = frozenset({Code.NAME_ALIKE})
"""The codes that are warnings: they fail nothing."""
