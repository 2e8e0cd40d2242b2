"""The certificates that a connection trusts and shows."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import certifi

if TYPE_CHECKING:
    from provisioner.secret import Secret

_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""Reasons of OpenSSL; it has one place for each type of key, and the last one is an empty place."""


def tls_context(
    ca_path: str | None,
    ca_pem: str | None = None,
    client_certificate: Secret | None = None,
    *,
    verify: bool = True,
) -> ssl.SSLContext:
    """Return the settings of encrypted connections.

    Args:
        ca_path: a PEM file, or a folder of them; None for the default CA certificates.
        ca_pem: the same as text, in place of `ca_path`.
        client_certificate: a certificate with its chain and key, as PEM text.
        verify: whether to verify the server's certificate.

    Raises:
        OSError, ValueError: a certificate cannot be read.
    """
    if ca_pem is not None:
        ascii_only = ca_pem.encode("ascii", "ignore").decode()  # comments may have other characters
        context = ssl.create_default_context(cadata=ascii_only)
    else:
        path = ca_path or certifi.where()
        file, folder = (None, path) if Path(path).is_dir() else (path, None)
        context = ssl.create_default_context(cafile=file, capath=folder)
    # Python 3.13 sets this flag, but CA certificates of older clusters have no key identifier.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_certificate is not None:
        # OpenSSL reads only files, and Windows cannot open a temporary file twice. The file exists
        # only for the next lines, in a folder that only this user can read.
        with tempfile.TemporaryDirectory(prefix="provision-") as private:
            identity = Path(private, "identity.pem")
            identity.touch(0o600)
            identity.write_text(client_certificate.reveal(), encoding="utf-8")
            # With an empty password an encrypted key fails instead of prompting.
            context.load_cert_chain(identity, password=b"")
    return context


def client_cert_fault(cert_path: Path, key_path: Path | None) -> str | None:
    """Return a clause that says why a client certificate is not usable; None if it is.

    Args:
        cert_path: a readable file with a certificate and its chain, as PEM.
        key_path: the same with its private key, not encrypted; None if `cert_path` has it too.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_path, key_path, password=b"")
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            return "the private key does not belong to the certificate"
        why = (error.reason or "it is damaged").lower().replace("_", " ")
        return f"the certificate or its private key cannot be used: {why}"
    return None
