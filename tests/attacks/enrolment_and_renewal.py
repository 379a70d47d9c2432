"""First identities, next ones, and coming back: tokens, requests, certificates, proofs."""

from __future__ import annotations

import datetime as dt
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki import proof, requests
from tests.attacks.case import FP, HARMLESS, IA, RE, UA, Attack, Trail
from tests.attacks.scene import (
    CONFIRM,
    ENGINE,
    ENROL,
    NONCE,
    RECOVER,
    RENEW,
    Guest,
    Scene,
)
from tests.attacks.wire import Answer
from tests.fakes.forge import new_key
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.tls import KeyMaterial

_DER = serialization.Encoding.DER
REFUSED_TOKEN = "TOKEN_REFUSED"
_ATTEMPTS = ("tokens.attempts",)


def _token_trail(why: str) -> Trail:
    return Trail(
        process="issuer",
        metric="trove_issuer_enrolments_total",
        labels=(("result", "refused"),),
        audit="refuse-token",
        why=why,
    )


# Tokens.


def _shows(change: Callable[[str], str], **more: object) -> Callable[[Scene], Answer]:
    """A real token of the spare guest, changed."""

    def run(scene: Scene) -> Answer:
        token = scene.token(scene.spare)
        scene.mark()
        return scene.enrol(change(token), scene.spare, **more)

    return run


def _flipped(token: str) -> str:
    return token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]


def _of_another(scene: Scene) -> Answer:
    """The attacker's own good token, for the neighbour's identity."""
    token = scene.token(scene.spare)
    scene.mark()
    return scene.enrol(token, scene.neighbour)


def _expired(scene: Scene) -> Answer:
    token = scene.token(scene.spare, seconds=0.5)
    scene.mark()
    time.sleep(0.6)  # that it ends is what is waited for
    return scene.enrol(token, scene.spare)


def _superseded(scene: Scene) -> Answer:
    old = scene.token(scene.spare)
    scene.token(scene.spare)
    scene.mark()
    return scene.enrol(old, scene.spare)


def _used(*, same_key: bool) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        token, key = scene.token(scene.spare), requests.new_key()
        csr = requests.csr_der(key)
        first = scene.enrol(token, scene.spare, csr=csr)
        assert first.verdict == "OK", first
        scene.mark()
        again = scene.enrol(
            token, scene.spare, csr=csr if same_key else requests.csr_der(requests.new_key())
        )
        if same_key:
            chain = [
                enrolment_pb2.EnrolResponse.FromString(each.messages[0]).chain_pem
                for each in (first, again)
            ]
            assert chain[0] == chain[1], "the same certificate, not another one"
            return Answer(outcome=HARMLESS)
        return again

    return run


def _locked(scene: Scene) -> Answer:
    """Six wrong tries from six addresses; then even the right secret is refused."""
    token = scene.token(scene.spare)
    lookup = token.split(".")[1]
    scene.mark()
    for _ in range(6):
        wrong = scene.enrol(f"trv1.{lookup}.{'A' * 43}", scene.spare)
        assert (wrong.verdict, wrong.reason) == (UA, REFUSED_TOKEN), wrong
    return scene.enrol(token, scene.spare)


def _guessing_from_one_address(scene: Scene) -> Answer:
    source = scene.source()
    answers = [scene.enrol("trv1.x.y", scene.spare, source=source) for _ in range(40)]
    elsewhere = scene.enrol("trv1.x.y", scene.spare)
    assert elsewhere.reason == REFUSED_TOKEN, "another address shares no limit"
    return answers[-1]


def _timing(scene: Scene) -> Answer:
    """Reported, not judged: whether unknown and wrong tokens take different times."""
    lookup = scene.token(scene.spare).split(".")[1]
    scene.mark()
    times: dict[str, list[float]] = {"unknown": [], "known, wrong secret": []}
    for _ in range(30):
        for kind, name in (("unknown", "A" * 11), ("known, wrong secret", lookup)):
            source = scene.source()
            with scene.connect("enrolment", source=source) as connection:
                request = enrolment_pb2.EnrolRequest(
                    token=f"trv1.{name}.{'A' * 43}",
                    csr_der=requests.csr_der(requests.new_key()),
                    instance_id=scene.spare.id,
                ).SerializeToString()
                began = time.perf_counter()
                answer = connection.call(ENROL, request)
                times[kind].append(time.perf_counter() - began)
            assert answer.reason == REFUSED_TOKEN, answer
    for kind, found in times.items():
        scene.notes.append(
            f"refusing a token that is {kind}: median {statistics.median(found) * 1000:.1f} ms, "
            f"standard deviation {statistics.stdev(found) * 1000:.1f} ms, n = {len(found)}"
        )
    return answer


def _same_words(scene: Scene) -> Answer:
    """Foreign, unknown, superseded: byte for byte the same refusal."""
    old = scene.token(scene.spare)
    token = scene.token(scene.spare)
    scene.mark()
    answers = [
        scene.enrol(token, scene.neighbour),
        scene.enrol(_flipped(token), scene.spare),
        scene.enrol(old, scene.spare),
        scene.enrol("trv1." + "A" * 11 + "." + "A" * 43, scene.spare),
        scene.enrol(token, Guest("11111111-2222-3333-4444-555555555555", "", "")),
    ]
    assert len({tuple(answer.headers) for answer in answers}) == 1, answers
    return answers[0]


def _of_deleted(scene: Scene) -> Answer:
    doomed = scene.doomed("token-of-deleted", is_silent=False)
    token = scene.token(doomed)
    scene.plane.request("DELETE", f"/instances/{doomed.id}")
    scene.plane.await_gone(doomed.id)
    scene.mark()
    return scene.enrol(token, doomed)


def _crowd(scene: Scene) -> Answer:
    """One address asks for numbers as fast as it can while a neighbour enrols."""
    token = scene.token(scene.spare)
    source = scene.source()
    scene.mark()
    stop: list[bool] = []

    def ask() -> int:
        asked = 0
        while not stop:
            with scene.connect("enrolment", source=source) as connection:
                for _ in range(200):
                    if stop or not connection.is_open:
                        break
                    request = enrolment_pb2.GetNonceRequest(instance_id=scene.spare.id)
                    connection.call(NONCE, request.SerializeToString())
                    asked += 1
        return asked

    with ThreadPoolExecutor(16) as pool:
        crowd = [pool.submit(ask) for _ in range(16)]
        try:
            waits = []
            for _ in range(10):
                began = time.monotonic()
                answer = scene.enrol(token[:-1] + "?", scene.spare)
                waits.append(time.monotonic() - began)
                assert answer.reason != "OVERLOADED", answer
        finally:
            stop.append(True)
        asked = sum(each.result() for each in crowd)
    scene.notes.append(
        f"16 connections of one address asked for {asked} numbers; another address was answered "
        f"within {max(waits):.2f} s"
    )
    return answer


# Requests.


def _csr(make: Callable[[], bytes]) -> Callable[[Scene], Answer]:
    """A request with a good token, which must not be used up by it."""

    def run(scene: Scene) -> Answer:
        token = scene.token(scene.spare)
        scene.mark()
        return scene.enrol(token, scene.spare, csr=make())

    return run


def _request(
    *,
    key: str = "P-256",
    subject: str = "",
    attribute: bool = False,
    extensions: Sequence[x509.ExtensionType] = (),
) -> Callable[[], bytes]:
    def make() -> bytes:
        names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        if attribute:
            builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"let me in")
        made = new_key(key)
        return builder.sign(made, None if key == "Ed25519" else hashes.SHA256()).public_bytes(_DER)

    return make


def _good() -> bytes:
    return requests.csr_der(requests.new_key())


def _off_curve() -> bytes:
    """The public point's last byte changed: not on the curve, and not what was signed."""
    key = requests.new_key()
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    return requests.csr_der(key).replace(point, point[:-1] + bytes([point[-1] ^ 1]))


def _other_signature() -> bytes:
    first, second = (requests.csr_der(requests.new_key()) for _ in range(2))
    return first[:-40] + second[-40:]


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
_URI = x509.UniformResourceIdentifier("spiffe://local.trove/operator/root")
_REQUESTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "another name": (
        _request(extensions=(x509.SubjectAlternativeName([_URI]),)),
        "CSR_EXTENSION",
    ),
    "a DNS name": (
        _request(extensions=(x509.SubjectAlternativeName([x509.DNSName("gateway.local.trove")]),)),
        "CSR_EXTENSION",
    ),
    "to be an authority": (
        _request(extensions=(x509.BasicConstraints(ca=True, path_length=None),)),
        "CSR_EXTENSION",
    ),
    "to sign certificates": (_request(extensions=(_KEY_USAGE,)), "CSR_EXTENSION"),
    "to be a server": (
        _request(extensions=(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]),)),
        "CSR_EXTENSION",
    ),
    "an unknown extension": (
        _request(
            extensions=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),)
        ),
        "CSR_EXTENSION",
    ),
    "a challenge password": (_request(attribute=True), "CSR_EXTENSION"),
    "a common name": (_request(subject="operator"), "CSR_SUBJECT"),
    "an RSA key": (_request(key="RSA-2048"), "CSR_KEY"),
    "a P-384 key": (_request(key="P-384"), "CSR_KEY"),
    "a P-521 key": (_request(key="P-521"), "CSR_KEY"),
    "an Ed25519 key": (_request(key="Ed25519"), "CSR_KEY"),
    "a point off the curve": (_off_curve, ""),
    "another request's signature": (_other_signature, ""),
    "PEM instead of DER": (
        lambda: x509.load_der_x509_csr(_good()).public_bytes(serialization.Encoding.PEM),
        "CSR_MALFORMED",
    ),
    "two requests in one": (lambda: _good() + _good(), "CSR_MALFORMED"),
    "trailing bytes": (lambda: _good() + b"\x00", "CSR_MALFORMED"),
    "no bytes": (lambda: b"", "CSR_MALFORMED"),
    "half a request": (lambda: _good()[:60], "CSR_MALFORMED"),
    "deep nesting": (lambda: b"\x30\x80" * 1500, "CSR_MALFORMED"),
    "a length of 4 GiB": (lambda: b"\x30\x84\xff\xff\xff\xff" + b"\x00" * 64, "CSR_MALFORMED"),
    "an indefinite length": (lambda: b"\x30\x80" + _good()[4:] + b"\x00\x00", "CSR_MALFORMED"),
    "a certificate": (
        lambda: b"\x30\x82\x02\x00" + b"\x02\x01\x02" * 170 + b"\x00\x00",
        "CSR_MALFORMED",
    ),
    "60 kB": (lambda: _good() + b"\x00" * 60_000, "BAD_CSR"),
}


# Renewal.


def _asks(method: str, make: Callable[[], bytes]) -> Callable[[Scene], Answer]:
    """The attacker's own good certificate, and a greedy request."""
    kind = {
        RENEW: identity_pb2.RenewRequest,
        ENGINE: identity_pb2.IssueEngineCertificateRequest,
    }[method]
    return lambda scene: scene.call(method, kind(csr_der=make()))


def _known_key(method: str) -> Callable[[Scene], Answer]:
    kind = {
        RENEW: identity_pb2.RenewRequest,
        ENGINE: identity_pb2.IssueEngineCertificateRequest,
    }[method]

    def run(scene: Scene) -> Answer:
        key = requests.load_key(scene.stolen.key_pem)
        return scene.call(method, kind(csr_der=requests.csr_der(key)))

    return run


def _never_issued(method: str) -> Callable[[Scene], Answer]:
    """A certificate our authority signed and our issuer has no record of."""

    def run(scene: Scene) -> Answer:
        forged = scene.forge.sign(scene.forge.guest(scene.neighbour.tenant, scene.neighbour.id))
        request = (
            identity_pb2.ConfirmRequest()
            if method == CONFIRM
            else identity_pb2.RenewRequest(csr_der=_good())
        )
        return scene.call(method, request, forged)

    return run


def _with_another_tenant(scene: Scene) -> Answer:
    forged = scene.forge.sign(scene.forge.guest("other", scene.attacked.id))
    return scene.call(RENEW, identity_pb2.RenewRequest(csr_der=_good()), forged)


def _enrolled(scene: Scene) -> KeyMaterial:
    """A fresh identity of the spare guest."""
    key = requests.new_key()
    answer = scene.enrol(scene.token(scene.spare), scene.spare, csr=requests.csr_der(key))
    assert answer.verdict == "OK", answer
    response = enrolment_pb2.EnrolResponse.FromString(answer.messages[0])
    return KeyMaterial(key_pem=requests.key_pem(key), chain_pem=response.chain_pem)


def _superseded_certificate(scene: Scene) -> Answer:
    """A snapshot of the machine from before its renewal."""
    first = _enrolled(scene)
    key = requests.new_key()
    renewed = scene.call(RENEW, identity_pb2.RenewRequest(csr_der=requests.csr_der(key)), first)
    assert renewed.verdict == "OK", renewed
    chain = identity_pb2.RenewResponse.FromString(renewed.messages[0]).chain_pem
    second = KeyMaterial(key_pem=requests.key_pem(key), chain_pem=chain)
    assert scene.call(CONFIRM, b"", second).verdict == "OK"
    scene.mark()
    return scene.call(RENEW, identity_pb2.RenewRequest(csr_der=_good()), first)


def _enrolled_anew(scene: Scene) -> Answer:
    """What a rebuilt machine's predecessor still holds."""
    first = _enrolled(scene)
    _enrolled(scene)
    scene.mark()
    ends = time.monotonic() + 3
    while True:  # the gateway polls denials
        answer = scene.call(RENEW, identity_pb2.RenewRequest(csr_der=_good()), first)
        if answer.reason == "CERTIFICATE_DENIED" or time.monotonic() > ends:
            return answer


# Recovery.


def _recovers(
    *,
    shown: Callable[[Scene], KeyMaterial] = lambda scene: scene.stolen,
    guest: Callable[[Scene], Guest] = lambda scene: scene.attacked,
    nonce: Callable[[Scene, bytes], bytes] = lambda _scene, nonce: nonce,
    sign: Callable[[bytes], bytes] = lambda signature: signature,
    chain: Callable[[bytes], bytes] = lambda chain: chain,
    times: int = 1,
) -> Callable[[Scene], Answer]:
    """A recovery that is right but for what is changed."""

    def run(scene: Scene) -> Answer:
        material, instance = shown(scene), guest(scene)
        number = nonce(scene, ask_nonce(scene, instance.id))
        csr = _good()
        signature = sign(proof.sign(material.key_pem, number, csr, instance.id))
        request = enrolment_pb2.RecoverRequest(
            instance_id=instance.id,
            expired_chain_pem=chain(material.chain_pem),
            csr_der=csr,
            nonce=number,
            signature=signature,
        )
        for _ in range(times):
            answer = scene.call(RECOVER, request, listener="enrolment", source=scene.source())
        return answer

    return run


def ask_nonce(scene: Scene, instance_id: str) -> bytes:
    request = enrolment_pb2.GetNonceRequest(instance_id=instance_id)
    answer = scene.call(NONCE, request, listener="enrolment", source=scene.source())
    return enrolment_pb2.GetNonceResponse.FromString(answer.messages[0]).nonce


def _expired_leaf(scene: Scene) -> KeyMaterial:
    """Signed by our authority, expired a second ago, unknown to the issuer."""
    leaf = scene.forge.guest(scene.neighbour.tenant, scene.neighbour.id)
    minute, second = dt.timedelta(minutes=1), dt.timedelta(seconds=1)
    return scene.forge.sign(leaf.with_(starts=-10 * minute, ends=-second))


def _foreign_leaf(scene: Scene) -> KeyMaterial:
    leaf = scene.forge.guest(scene.neighbour.tenant, scene.neighbour.id)
    day = dt.timedelta(days=1)
    signer = scene.forge.foreign.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    ours = scene.forge.signers[trust_pb2.AUTHORITY_KIND_GUEST].certificate
    return scene.forge.sign(leaf.with_(starts=-2 * day, ends=-day), signer=signer, key_id_of=ours)


def _victim(scene: Scene) -> Guest:
    return scene.neighbour


def _random_signature(_signature: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.sign(b"something else", ec.ECDSA(hashes.SHA256()))


_RECOVERIES: dict[str, tuple[Callable[[Scene], Answer], tuple[str, ...], str]] = {
    "with a certificate that has not expired": (_recovers(), (FP,), "NOT_EXPIRED"),
    "of the neighbour with the attacker's certificate": (
        _recovers(guest=_victim),
        (UA,),
        "BAD_IDENTITY",
    ),
    "with a certificate nobody issued": (
        _recovers(shown=_expired_leaf, guest=_victim),
        (UA,),
        "UNKNOWN_CERTIFICATE",
    ),
    "with another root's certificate": (
        _recovers(shown=_foreign_leaf, guest=_victim),
        (UA,),
        "BAD_PROFILE",
    ),
    "with a signature of another key": (_recovers(sign=_random_signature), (UA,), "BAD_PROOF"),
    "without a signature": (_recovers(sign=lambda _: b""), (UA,), "BAD_PROOF"),
    "with a signature that is no DER": (
        _recovers(sign=lambda _: b"\xff" * 70),
        (UA,),
        "BAD_PROOF",
    ),
    "with the same number twice": (_recovers(times=2), (UA,), "NONCE_USED"),
    "with the number of another instance": (
        _recovers(nonce=lambda scene, _: ask_nonce(scene, scene.neighbour.id)),
        (UA,),
        "NONCE_UNKNOWN",
    ),
    "with a number cut short": (_recovers(nonce=lambda _, n: n[:-1]), (UA,), "NONCE_UNKNOWN"),
    "with a number of its own": (
        _recovers(nonce=lambda _, n: bytes(len(n))),
        (UA,),
        "NONCE_UNKNOWN",
    ),
    "without a number": (_recovers(nonce=lambda *_: b""), (UA,), "NONCE_UNKNOWN"),
    "without a certificate": (_recovers(chain=lambda _: b""), (UA,), "BAD_PROFILE"),
    "with a certificate that is none": (
        _recovers(
            chain=lambda _: b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
        ),
        (UA,),
        "BAD_PROFILE",
    ),
    "with a chain of 50 kB": (_recovers(chain=lambda c: c * 33), (UA,), "BAD_CHAIN"),
}

_THIEF = "a thief becomes the victim with what it found, guessed or kept"
_GREEDY = "a request becomes another identity than the caller's"

TOKENS = tuple(
    Attack(
        name=name,
        threat=_THIEF,
        run=run,
        expect=(UA,),
        reason=REFUSED_TOKEN,
        listener="enrolment",
        trail=_token_trail(why),
        cases=cases,
        changes=("subjects",) if "used by" in why else (),  # into quarantine
        smoke=name == "a token of the attacker for the neighbour",
    )
    for name, run, why, cases in (
        ("a token of the attacker for the neighbour", _of_another, "foreign", (37,)),
        ("a token with one bit changed", _shows(_flipped), "unknown", (38,)),
        ("a token cut short", _shows(lambda token: token[:-5]), "unknown", (38,)),
        ("an empty token", _shows(lambda _: ""), "unknown", (38,)),
        ("a token with NUL", _shows(lambda token: f"{token}\x00"), "unknown", (38,)),
        ("a token of SQL", _shows(lambda _: "' OR '1'='1"), "unknown", (38, 62)),
        (
            "a token in another spelling",
            _shows(lambda t: t.replace("trv1", "TRV1")),
            "unknown",
            (38,),
        ),
        ("an expired token", _expired, "expired", (38,)),
        ("a token that a newer one replaced", _superseded, "void", (38,)),
        ("a used token with another key", _used(same_key=False), "used by another key", (36,)),
        ("a token after six wrong tries from six addresses", _locked, "locked", (38,)),
        ("the words of five refusals", _same_words, "foreign", (37,)),
        ("the times of two refusals", _timing, "unknown", (37,)),
        ("a token of a deleted instance", _of_deleted, "", (44,)),
    )
)
TOKEN_USE = (
    Attack(
        name="a used token with the same key again",
        threat="a lost reply is asked for again: it must give nothing new",
        run=_used(same_key=True),
        expect=(HARMLESS,),
        trail=Trail(process="issuer", metric="trove_issuer_enrolments_total", audit="enrol-guest"),
        cases=(36, 47),
    ),
    Attack(
        name="a token of 60 kB",
        threat="memory, or a slow comparison",
        run=_shows(lambda token: token + "A" * 60_000),
        expect=(IA,),
        listener="enrolment",
        cases=(38,),
    ),
    Attack(
        name="a token of 1 MiB",
        threat="memory",
        run=_shows(lambda token: token + "A" * 2**20),
        expect=(RE,),
        listener="enrolment",
        trail=Trail(metric="trove_tls_handshakes_total", labels=(("listener", "enrolment"),)),
        cases=(38,),
    ),
    Attack(
        name="forty guesses from one address",
        threat="guessing without end",
        run=_guessing_from_one_address,
        expect=(RE,),
        listener="enrolment",
        cases=(38,),
        smoke=True,
    ),
    Attack(
        name="a crowd of one address that asks for numbers",
        threat="nobody else can enrol or come back",
        run=_crowd,
        expect=(UA,),
        listener="enrolment",
        trail=_token_trail(""),
    ),
    Attack(
        name="an instance id that is SQL",
        threat="a query of the attacker's",
        run=_shows(lambda token: token, instance_id="' OR 1=1 --"),
        expect=(IA,),
        listener="enrolment",
        cases=(62,),
    ),
    Attack(
        name="a boot id of 4 KiB",
        threat="text without end in the audit",
        run=_shows(lambda token: token, boot_id="b" * 4096),
        expect=(IA,),
        listener="enrolment",
    ),
)
REQUESTS = tuple(
    Attack(
        name=f"a request that asks for, or is, {what}",
        threat=_GREEDY,
        run=_csr(make),
        expect=(IA,),
        reason=reason,
        listener="enrolment",
        cases=(40,) if reason in ("CSR_EXTENSION", "CSR_SUBJECT") else (42,),
        smoke=what == "to be an authority",
    )
    for what, (make, reason) in _REQUESTS.items()
)
RENEWALS = (
    *(
        Attack(
            name=f"{method.rpartition('/')[2]} with a request for {what}",
            threat=_GREEDY,
            run=_asks(method, _REQUESTS[what][0]),
            expect=(IA,),
            reason=_REQUESTS[what][1],
            cases=(40,),
        )
        for method in (RENEW, ENGINE)
        for what in ("another name", "to be an authority", "an RSA key", "a common name")
    ),
    *(
        Attack(
            name=f"{method.rpartition('/')[2]} with a key that has a certificate",
            threat="one key, two identities: a copy could hide",
            run=_known_key(method),
            expect=(IA,),
            reason="CSR_KEY_REUSED",
            trail=Trail(process="issuer", audit="refuse-certificate", why="CSR_KEY_REUSED"),
        )
        for method in (RENEW, ENGINE)
    ),
    *(
        Attack(
            name=f"{method.rpartition('/')[2]} with a certificate nobody issued",
            threat="a stolen authority's key is enough, and leaves no record",
            run=_never_issued(method),
            expect=(UA,),
            reason="UNKNOWN_CERTIFICATE",
            trail=Trail(process="issuer", audit="refuse-certificate", why="UNKNOWN_CERTIFICATE"),
        )
        for method in (RENEW, CONFIRM)
    ),
    Attack(
        name="renewal under another tenant's name",
        threat="the attacker changes tenants",
        run=_with_another_tenant,
        expect=(UA,),
        reason="UNKNOWN_CERTIFICATE",
        trail=Trail(process="issuer", audit="refuse-certificate", why="UNKNOWN_CERTIFICATE"),
        cases=(20,),
    ),
    Attack(
        name="renewal with a certificate from before the last renewal",
        threat="a restored snapshot lives beside its original",
        run=_superseded_certificate,
        expect=(FP,),
        reason="STALE_SERIAL",
        trail=Trail(process="issuer", audit="refuse-certificate", why="STALE_SERIAL"),
        changes=("subjects",),  # into quarantine
        cases=(45,),
        smoke=True,
    ),
    Attack(
        name="renewal with what a rebuilt machine's predecessor held",
        threat="an old disk is an identity",
        run=_enrolled_anew,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
        cases=(45,),
    ),
)
RECOVERIES = tuple(
    Attack(
        name=f"a recovery {what}",
        threat="an expired identity, or none, becomes a good one",
        run=run,
        expect=expect,
        reason=reason,
        listener="enrolment",
        trail=Trail(process="issuer", audit="refuse-recovery", why=reason),
        cases=(48,),
        smoke=what == "with a signature of another key",
    )
    for what, (run, expect, reason) in _RECOVERIES.items()
)

ATTACKS = (*TOKENS, *TOKEN_USE, *REQUESTS, *RENEWALS, *RECOVERIES)
