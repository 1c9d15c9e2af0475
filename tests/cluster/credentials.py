"""Certificates and keys with which the parts of a plane authenticate; each plane has its own authority."""

from __future__ import annotations

import base64
from pathlib import Path

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ADMIN = ("knative-bench-admin", "system:masters")


class Credentials:
    """The files in `folder`, readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(folder / "ca.pem")
        self.authority = folder / "ca.pem"

    def serving(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Certificate and key of a server on loopback with the additional names `hosts`."""
        return self._write(name, self._authority.issue_cert("localhost", "127.0.0.1", *hosts, common_name=name))

    def client(self, name: str, group: str | None = None) -> tuple[Path, Path]:
        return self._write(name.replace(":", "-"), self._client(name, group))

    def signing_key(self) -> tuple[Path, Path]:
        """Private and public key for service account tokens."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        paths = self._folder / "accounts.key", self._folder / "accounts.pub"
        for path, data in zip(paths, (private, public), strict=True):
            path.write_bytes(data)
        return paths

    def kubeconfig(self, server: str, user: str, group: str | None = None) -> Path:
        """A kubeconfig with inline certificates, so that it can be copied."""
        certificate = self._client(user, group)
        name = "knative-bench"
        key = certificate.private_key_pem.bytes()
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        doc = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": name, "cluster": {"server": server, "certificate-authority-data": _base64(self.authority)}}
            ],
            "users": [
                {"name": user, "user": {"client-certificate-data": _encode(chain), "client-key-data": _encode(key)}}
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }
        path = self._folder / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(yaml.safe_dump(doc, sort_keys=False))
        return path

    def _client(self, name: str, group: str | None) -> trustme.LeafCert:
        # trustme requires an identity; Kubernetes uses only the subject.
        return self._authority.issue_cert("client.knative-bench.test", common_name=name, organization_name=group)

    def _write(self, name: str, certificate: trustme.LeafCert) -> tuple[Path, Path]:
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(paths[1])
        return paths


def _base64(path: Path) -> str:
    return _encode(path.read_bytes())


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
