"""Every code that a problem of the manifests can have, and what it means in one line."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CODES: Mapping[str, str] = MappingProxyType(
    {
        # files
        "manifests_missing": "The manifests directory is not there, or it holds no manifest.",
        "environments_missing": "There is no environments.yaml in the manifests directory.",
        "environments_misnamed": "environments.yml stands beside environments.yaml.",
        "file_unreadable": "A file or folder cannot be opened, or is not a regular file.",
        "file_too_large": "A file has more than 16 MiB, or more values than one file may hold.",
        "file_encoding": "A file is not UTF-8.",
        "file_line_ends": "A carriage return ends a line without a line feed.",
        "file_empty": "A file holds nothing but comments, if that.",
        # YAML
        "yaml_syntax": "The file is not YAML.",
        "yaml_too_deep": "Mappings and lists are nested deeper than 64 levels.",
        "yaml_multiple_documents": "The file holds more than one YAML document.",
        "yaml_anchor": "An anchor (`&name`); everything is written out where it is meant.",
        "yaml_alias": "An alias (`*name`); everything is written out where it is meant.",
        "yaml_merge_key": "A merge key (`<<`); everything is written out where it is meant.",
        "yaml_tag": "A tag (`!name`).",
        "yaml_duplicate_key": "The same key stands twice in one mapping.",
        "yaml_key_type": "A key of a mapping is not text.",
        "yaml_surprise": "YAML reads a plain word as something else than the text it looks like.",
        "too_many_problems": "The rest of a file was left out, it has too many YAML problems.",
        # shape
        "unknown_key": "A key that does not belong here.",
        "missing_key": "A key that must be here is not.",
        "wrong_type": "A value of another kind than is wanted, as a list in place of text.",
        "invalid_value": "A value outside what is allowed here.",
        # manifests
        "depth_invalid": "The depth is not 0, 1 or 2.",
        "name_invalid": "A key's name is empty, or has blanks at its ends or control characters.",
        "name_alike": "A name looks like another one of its environment; a warning.",
        "character_unseen": "A name or role holds characters that are not seen, or is not in NFC.",
        "name_duplicate": "The same key name twice in one environment.",
        "environment_both": "Both `environment` and `environments` in one manifest.",
        "environment_unknown": "A manifest names an environment that environments.yaml lacks.",
        "environment_duplicate": "A manifest names an environment twice.",
        "expiry_invalid": "An expiry that is no date, date-time or duration.",
        "expiry_missing": "A key has no expiry, neither its own nor from `defaults`.",
        "expiry_past": "An expiry that has passed.",
        "matrix_axis_invalid": "The name of a matrix axis cannot be a placeholder.",
        "matrix_empty": "A matrix without an axis, or an axis without a value.",
        "matrix_collision": "Two combinations of a matrix give one name.",
        "matrix_too_large": "A matrix, or all manifests together, give too many keys.",
        "placeholder_invalid": "A brace in a name or sink that is no placeholder.",
        "placeholder_unknown": "A placeholder in a name or sink that nothing knows.",
        # rotation
        "rotation_invalid": "A `rotate` that is not `never` or two durations.",
        "rotation_expiry": "A rotated key whose `expires` does not go with its `rotate`.",
        "rotation_unowned": "A rotated key whose name `owns` of its environment does not match.",
        # delivery
        "sink_invalid": "A sink of no kind or of several, or a value that it cannot have.",
        "sink_collision": "Two keys, or two sinks of one key, deliver to one place.",
        # policy
        "policy_lifetime": "A key lives longer than the policy of its environment allows.",
        "policy_rotation": "A key is not rotated, and the policy of its environment wants it.",
        "policy_role": "A key has a role that the policy of its environment does not list.",
        "policy_name": "A key has a name that the policy of its environment does not allow.",
        "policy_sink": "A key has none of the sinks that the policy of its environment wants.",
        "policy_sink_forbidden": "A key has a sink that the policy of its environment forbids.",
        # environments
        "environment_name_invalid": "The name of an environment cannot be a file name.",
        "url_invalid": "A URL without scheme or host, with a query, or one nothing can be sent to.",
        "url_credentials": "A URL with a user name or password inside.",
        "url_insecure": "Plain http to another machine, without `insecure: true`.",
        "auth_missing": "An environment without `auth` that is not the embedded Twenty.",
        "auth_invalid": "`auth` is not one of its forms, or its value cannot be a credential.",
        "header_invalid": "A header that cannot be sent, or that `auth` is in charge of.",
        "secret_literal": "A secret stands in the file itself.",
        "secret_file_unreadable": "A token or password file cannot be used.",
        "ca_file_unreadable": "The file of certificate authorities cannot be used.",
        "variable_invalid": "A `$` that starts no variable, or a variable where none is read.",
        "variable_missing": "A variable is not set, or is empty.",
    }
)

WARNINGS = frozenset({"name_alike"})
"""The codes that only warn: nothing fails for them."""
