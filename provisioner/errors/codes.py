"""Every code that a problem of the manifests can have, with its meaning in one line."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CODES: Mapping[str, str] = MappingProxyType(
    {
        # files
        "manifests_missing": "The manifests directory does not exist or contains no manifest.",
        "environments_missing": "The manifests directory contains no environments.yaml.",
        "environments_misnamed": "Both environments.yml and environments.yaml exist.",
        "file_unreadable": "A file or folder cannot be opened or is not a regular file.",
        "file_too_large": "A file is larger than 16 MiB or contains too many values.",
        "file_encoding": "A file is not UTF-8.",
        "file_line_ends": "A line ends with a carriage return but no line feed.",
        "file_empty": "A file is empty or contains only comments.",
        # YAML
        "yaml_syntax": "The file is not valid YAML.",
        "yaml_too_deep": "Mappings and lists are nested deeper than 64 levels.",
        "yaml_multiple_documents": "The file contains more than one YAML document.",
        "yaml_anchor": "The file uses an anchor (`&name`), which is not supported.",
        "yaml_alias": "The file uses an alias (`*name`), which is not supported.",
        "yaml_merge_key": "The file uses a merge key (`<<`), which is not supported.",
        "yaml_tag": "The file uses a tag (`!name`), which is not supported.",
        "yaml_duplicate_key": "A mapping contains the same key twice.",
        "yaml_key_type": "A mapping key is not a string.",
        "yaml_surprise": "YAML reads an unquoted word as something other than text.",
        "too_many_problems": "The file has too many YAML problems; the rest of it was not checked.",
        # shape
        "unknown_key": "A key is not allowed here.",
        "missing_key": "A required key is missing.",
        "wrong_type": "A value has the wrong type, such as a list instead of text.",
        "invalid_value": "A value is not allowed here.",
        # manifests
        "depth_invalid": "The depth is not 0, 1 or 2.",
        "name_invalid": "A name is empty, has spaces around it or contains control characters.",
        "name_alike": "A name looks like another name in its environment (a warning).",
        "character_unseen": "A name or role has invisible characters or is not in Unicode NFC.",
        "name_duplicate": "Two keys in an environment have the same name.",
        "environment_both": "A manifest has both `environment` and `environments`.",
        "environment_unknown": "A manifest names an environment that environments.yaml does "
        "not define.",
        "environment_duplicate": "A manifest names an environment twice.",
        "expiry_invalid": "An expiry is not a date, a date-time, a duration or `never`.",
        "expiry_missing": "A key has no expiry, and neither do the `defaults`.",
        "expiry_past": "An expiry is in the past.",
        "matrix_axis_invalid": "The name of a matrix axis cannot be used as a placeholder.",
        "matrix_empty": "A matrix has no axis, or an axis has no values.",
        "matrix_collision": "Two combinations of a matrix produce the same name.",
        "matrix_too_large": "A matrix, or all manifests together, produce too many keys.",
        "placeholder_invalid": "A brace in a name or sink is not part of a placeholder.",
        "placeholder_unknown": "A name or sink has a placeholder that does not exist.",
        # rotation
        "rotation_invalid": "A `rotate` is neither `never` nor two durations.",
        "rotation_expiry": "The `expires` and `rotate` values of a key are incompatible.",
        "rotation_unowned": "A rotated key matches no pattern in its environment's `owns`.",
        # delivery
        "sink_invalid": "A sink has no kind, several kinds or a value that is not valid.",
        "sink_collision": "Two keys, or two sinks of one key, deliver to the same place.",
        # policy
        "policy_lifetime": "A key lives longer than the policy of its environment allows.",
        "policy_rotation": "A key has no rotation, which the policy of its environment requires.",
        "policy_role": "A key has a role that the policy of its environment does not allow.",
        "policy_name": "A key has a name that the policy of its environment does not allow.",
        "policy_sink": "A key has none of the sinks that the policy of its environment requires.",
        "policy_sink_forbidden": "A key has a sink that the policy of its environment forbids.",
        # environments
        "environment_name_invalid": "The name of an environment cannot be used as a file name.",
        "url_invalid": "A URL has no scheme or host, has a query, or cannot be used.",
        "url_credentials": "A URL contains a user name or password.",
        "url_insecure": "A URL uses plain http to another machine without `insecure: true`.",
        "auth_missing": "An environment has no `auth` and does not use the embedded Twenty.",
        "auth_invalid": "`auth` is in an unrecognized form, or its value cannot be a credential.",
        "header_invalid": "A header cannot be sent, or is reserved for `auth`.",
        "secret_literal": "The file contains a secret in plain text.",
        "secret_file_unreadable": "A token or password file cannot be read.",
        "ca_file_unreadable": "The certificate authority file cannot be read.",
        "variable_invalid": "A `$` does not start a variable, or variables are not allowed here.",
        "variable_missing": "A variable is not set or is empty.",
    }
)

WARNINGS = frozenset({"name_alike"})
"""The codes that are warnings: they fail nothing."""
