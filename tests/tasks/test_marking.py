"""Content credentials with a certificate made for the test: signed, read back, and broken by a changed byte."""

import datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.images import encode_png
from models.provenance import Provenance, read_stamp
from tasks.marking import CERTIFICATE_VARIABLE, KEY_VARIABLE, BadSigner, content_credentials, mark
from tasks.verify_image import verify_image

WHO = Provenance(software="InstaFace 0.1", model="m", identity="i", edit="{}")
PICTURE = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test Studio"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, authority, authority, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("authority"))
        .public_key(key.public_key())
        .serial_number(1 if authority else 2)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("signer")
    authority, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = [
        _certificate("signer", leaf, authority, authority=False),
        _certificate("authority", authority, authority, authority=True),
    ]
    (folder / "chain.pem").write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain))
    (folder / "key.pem").write_bytes(
        leaf.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "chain.pem", folder / "key.pem"


def test_a_signed_picture_says_who_signed_it(
    signer: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CERTIFICATE_VARIABLE, str(signer[0]))
    monkeypatch.setenv(KEY_VARIABLE, str(signer[1]))
    signed = mark(PICTURE, WHO)
    found = read_stamp(signed)
    assert found is not None
    assert found.intact
    assert content_credentials(signed) == "signed by Test Studio: valid (signingCredential.untrusted)"
    file = tmp_path / "signed.png"
    file.write_bytes(signed)
    verified = verify_image(file)
    assert verified is not None
    assert verified["credentials"].startswith("signed by Test Studio")
    place = signed.rindex(b"IDAT") + 40
    broken = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
    assert "invalid" in str(content_credentials(broken))


def test_without_a_certificate_nothing_is_signed() -> None:
    assert content_credentials(mark(PICTURE, WHO)) is None


def test_a_bad_signer_says_what_is_missing(
    signer: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CERTIFICATE_VARIABLE, str(signer[0]))
    with pytest.raises(BadSigner, match="belong together"):
        mark(PICTURE, WHO)
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "none.pem"))
    with pytest.raises(BadSigner, match="does not exist"):
        mark(PICTURE, WHO)
    (tmp_path / "none.pem").write_text("no key")
    with pytest.raises(BadSigner, match=r"no usable|could not sign"):
        mark(PICTURE, WHO)
