"""Make certificates with openssl: an authority, a server on the loopback, and clients."""

import shutil
import subprocess
from pathlib import Path

OPENSSL = shutil.which("openssl")


class Authority:
    """A certificate authority that signs certificates into files of a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, name
        self.certificate = str(folder / f"{name}.crt")
        _openssl(
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            *_new_key(folder / name),
            "-out",
            self.certificate,
        )

    def sign(self, common_name: str) -> tuple[str, str]:
        """Make a certificate for this name and 127.0.0.1; return the paths of it and of its key."""
        stem = self._folder / f"{self._name}-{common_name}"
        _openssl("req", "-subj", f"/CN={common_name}", *_new_key(stem), "-out", f"{stem}.csr")
        stem.with_suffix(".ext").write_text("subjectAltName=IP:127.0.0.1\n")
        signer = (
            "-CA",
            self.certificate,
            "-CAkey",
            str(self._folder / f"{self._name}.key"),
            "-CAcreateserial",
        )
        _openssl(
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            f"{stem}.csr",
            *signer,
            "-extfile",
            f"{stem}.ext",
            "-out",
            f"{stem}.crt",
        )
        return f"{stem}.crt", f"{stem}.key"


def _new_key(stem: Path) -> tuple[str, ...]:
    return (
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        f"{stem}.key",
    )


def _openssl(*arguments: str) -> None:
    subprocess.run(
        [str(OPENSSL), *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
