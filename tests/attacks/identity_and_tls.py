"""Certificates that are not what they claim, and TLS that is not what we speak."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from pki import profiles, requests
from tests.attacks import wire
from tests.attacks.case import ABSENT, DISTRUSTED, NO_TRAIL, REFUSED, UA, Attack, Trail
from tests.attacks.scene import BUNDLE, Scene, serial_of
from tests.attacks.wire import Answer
from tests.fakes.certificates import Signer
from tests.fakes.forge import CLIENT, CODE, SERVER, Leaf, address_name, uri
from trove_grpc import client, errors
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as identity_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import Role, guest_uri
from trove_grpc.tls import IdentityDirectory, KeyMaterial

SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
_BAD = "BAD_PROFILE"


def _leaf(scene: Scene) -> Leaf:
    """As the issuer would make it for the victim."""
    return scene.forge.guest(scene.neighbour.tenant, scene.neighbour.id)


def _spoiled(**changes: object) -> Callable[[Scene], Answer]:
    return lambda scene: scene.show(scene.forge.sign(_leaf(scene).with_(**changes)))


def _named(spoil: Callable[[str, Scene], str]) -> Callable[[Scene], Answer]:
    """Show a certificate whose one URI name is `spoil` of the victim's."""

    def run(scene: Scene) -> Answer:
        victim = scene.neighbour
        good = guest_uri(scene.forge.trust_domain, victim.tenant, victim.id)
        return scene.show(scene.forge.sign(_leaf(scene).with_(names=(uri(spoil(good, scene)),))))

    return run


def _anonymous(scene: Scene) -> Answer:
    tls = wire.context(scene.forge.root_pem, None)
    with scene.connect("guest", tls=tls) as connection:
        return connection.call(BUNDLE, b"")


def _foreign(scene: Scene) -> Answer:
    signer = scene.forge.foreign.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    return scene.show(scene.forge.sign(_leaf(scene), signer=signer))


def _foreign_with_our_chain(scene: Scene) -> Answer:
    """Signed by a stranger, sent together with our own intermediate."""
    signer = scene.forge.foreign.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    ours = scene.forge.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    return scene.show(scene.forge.sign(_leaf(scene), signer=signer, chain=(ours,)))


def _signed_by(kind: int) -> Callable[[Scene], Answer]:
    return lambda scene: scene.show(scene.forge.sign(_leaf(scene).with_(signed_by=kind)))


def _authority(kind: int) -> Callable[[Scene], Answer]:
    return lambda scene: scene.show(scene.forge.authority_itself(kind))


def _below(*, is_authority: bool, **takes: bool) -> Callable[[Scene], Answer]:
    return lambda scene: scene.show(
        scene.forge.below_a_leaf(_leaf(scene), is_authority=is_authority, **takes)
    )


def _long_chain(scene: Scene) -> Answer:
    ours = scene.forge.signers[trust_pb2.AUTHORITY_KIND_GUEST]
    return scene.show(scene.forge.sign(_leaf(scene), chain=[ours] * 400))


def _old_tls(scene: Scene) -> Answer:
    with wire.old_tls_allowed():
        tls = wire.context(scene.forge.root_pem, scene.stolen, most=ssl.TLSVersion.TLSv1_2)
        with scene.connect("guest", tls=tls) as connection:
            return connection.call(BUNDLE, b"")


def _plaintext(preface: bytes) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with wire.dial(scene.endpoints["gateway-guest"], source=scene.source()) as plain:
            plain.sendall(preface)
            try:
                seen = b""
                while data := plain.recv(4096):
                    seen += data
                return Answer(ending="closed", messages=[seen], outcome=REFUSED)
            except TimeoutError:
                return Answer(outcome="SILENT")
            except OSError as error:
                return Answer(ending=str(error), outcome=REFUSED)

    return run


def _without_alpn(scene: Scene) -> Answer:
    tls = wire.context(scene.forge.root_pem, scene.stolen, alpn=("http/1.1",))
    with scene.connect("guest", tls=tls) as connection:
        return connection.call(BUNDLE, b"")


def _short_lived(scene: Scene, seconds: float) -> tuple[KeyMaterial, float]:
    leaf = scene.forge.guest(scene.attacked.tenant, scene.attacked.id)
    material = scene.forge.sign(leaf.with_(ends=dt.timedelta(seconds=seconds)))
    return material, material.leaf.not_valid_after_utc.timestamp()


def _await(moment: float) -> None:
    """Until the wall clock says so: that a certificate ends is what is waited for."""
    while (left := moment - time.time()) > 0:
        time.sleep(left)


def _resumed_after_expiry(scene: Scene) -> Answer:
    material, ends = _short_lived(scene, 3)
    tls = wire.context(scene.forge.root_pem, material)
    with scene.connect("guest", tls=tls) as first:
        assert first.call(BUNDLE, b"").verdict == "OK"
        ticket = first.socket.session
    _await(ends + 0.1)
    with scene.connect("guest", tls=tls, session=ticket) as second:
        answer = second.call(BUNDLE, b"")
        scene.notes.append(
            f"a session resumed after expiry: resumed={second.was_resumed}, {answer.verdict}"
        )
        return answer


def _resumed_after_revocation(scene: Scene) -> Answer:
    material, _ = _short_lived(scene, 600)
    tls = wire.context(scene.forge.root_pem, material)
    with scene.connect("guest", tls=tls) as first:
        assert first.call(BUNDLE, b"").verdict == "OK"
        ticket = first.socket.session
    scene.deny(issuer_pb2.DENIAL_KIND_SERIAL, serial_of(material))
    scene.mark()
    ends = time.monotonic() + 2
    while True:
        with scene.connect("guest", tls=tls, session=ticket) as second:
            answer = second.call(BUNDLE, b"")
        if answer.verdict != "OK" or time.monotonic() > ends:
            return answer


def _open_connection_after_expiry(scene: Scene) -> Answer:
    material, ends = _short_lived(scene, 2)
    with scene.connect("guest", material) as connection:
        assert connection.call(BUNDLE, b"").verdict == "OK"
        _await(ends + 0.1)
        return connection.call(BUNDLE, b"")


def _open_stream_after_expiry(scene: Scene) -> Answer:
    material, ends = _short_lived(scene, 3)
    with scene.session(material) as session:
        assert session.is_open, session.answer
        answer = session.ended(seconds=10)
        scene.notes.append(f"a stream ended {time.time() - ends:.2f} s after its certificate")
        return answer


def _as_server(leaf: Callable[[Scene], KeyMaterial]) -> Callable[[Scene], Answer]:
    """The attacker listens, and an honest agent's TLS settings dial it."""

    def run(scene: Scene) -> Answer:
        material = leaf(scene)
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            key, chain = Path(folder) / "k", Path(folder) / "c"
            key.write_bytes(material.key_pem)
            chain.write_bytes(material.chain_pem)
            served.load_cert_chain(chain, key)
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            try:
                plain, _ = listening.accept()
                plain.settimeout(5)
                served.wrap_socket(plain, server_side=True).close()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            answer = _dial_as_agent(scene, listening.getsockname()[1])
        finally:
            listening.close()
            thread.join(10)
        return answer

    return run


def _dial_as_agent(scene: Scene, port: int) -> Answer:
    """With gRPC's own client, as agents use it."""
    identity = IdentityDirectory(scene.folder(scene.neighbour) / "agent" / "identity")

    async def ask() -> Answer:
        async with client.PeerChannel(
            [f"127.0.0.1:{port}"], identity=identity, server_role=Role.GATEWAY
        ) as peer:
            stub = peer.stub(identity_rpc.IdentityServiceStub)
            try:
                await client.call(
                    stub.GetTrustBundle, identity_pb2.GetTrustBundleRequest(), timeout=3
                )
            except (errors.UnavailableError, errors.DeadlineError) as error:
                return Answer(outcome=DISTRUSTED, ending=error.reason)
        return Answer(outcome="OK")

    return asyncio.run(ask())


def _issued_profile(scene: Scene) -> Answer:
    """What the issuer gives out: clientAuth alone, one URI, below a clientAuth authority."""
    leaf = scene.stolen.leaf
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    parent = scene.forge.signers[trust_pb2.AUTHORITY_KIND_GUEST].certificate
    bound = parent.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == list(bound) == [CLIENT]
    assert len(names) == 1
    return Answer(outcome=ABSENT)


def _engine_key_as_agent(scene: Scene) -> Answer:
    """The engine's certificate and key lie with the engine's user: no identity of ours."""
    folder = scene.folder(scene.attacked) / "engine"
    (held,) = folder.rglob("server.pem")  # the key, then the chain
    return scene.show(KeyMaterial(key_pem=held.read_bytes(), chain_pem=held.read_bytes()))


def _rotated_look_alike(scene: Scene) -> Answer:
    """An authority of a next generation that no bundle names."""
    key = requests.new_key()
    root = scene.forge.foreign.signers[trust_pb2.AUTHORITY_KIND_ROOT]
    builder = profiles.intermediate(
        trust_pb2.AUTHORITY_KIND_GUEST,
        key.public_key(),
        root.certificate,
        trust_domain=scene.forge.trust_domain,
        generation=2,
        lifetime=dt.timedelta(days=1),
        now=dt.datetime.now(dt.UTC),
    )
    signer = Signer(root.sign(builder), key)
    return scene.show(scene.forge.sign(_leaf(scene), signer=signer))


def _refused(
    name: str, threat: str, run: Callable[[Scene], Answer], *cases: int, **more
) -> Attack:
    return Attack(
        name=name,
        threat=threat,
        run=run,
        expect=(REFUSED,),
        cases=cases,
        trail=more.pop(
            "trail", Trail(metric="trove_tls_handshakes_total", labels=(("listener", "guest"),))
        ),
        **more,
    )


def _misread(name: str, run: Callable[[Scene], Answer], *cases: int, **more) -> Attack:
    return Attack(
        name=name,
        threat="a certificate grpc lets through becomes the victim's identity",
        run=run,
        expect=(UA,),
        reason=more.pop("reason", _BAD),
        cases=cases,
        **more,
    )


_VICTIM = "the attacker speaks as the victim"
_BEYOND = "an identity outlives what should have ended it"

HANDSHAKES = (
    _refused(
        "no client certificate", "anybody on the network is a guest", _anonymous, 1, smoke=True
    ),
    _refused(
        "a self-made authority of our name",
        _VICTIM,
        lambda s: s.show(s.forge.self_signed(_leaf(s))),
        2,
    ),
    _refused("another root with the same names", _VICTIM, _foreign, 3, smoke=True),
    _refused("another root's leaf beside our intermediate", _VICTIM, _foreign_with_our_chain, 3),
    _refused("an authority of a generation nobody announced", _VICTIM, _rotated_look_alike, 3),
    _refused("an expired leaf", _BEYOND, _spoiled(starts=-MINUTE, ends=-SECOND), 4),
    _refused("a leaf not yet valid", _VICTIM, _spoiled(starts=60 * MINUTE, ends=120 * MINUTE), 5),
    _refused(
        "a leaf of the service authority", _VICTIM, _signed_by(trust_pb2.AUTHORITY_KIND_SERVICE), 9
    ),
    _refused(
        "a leaf of the operator authority",
        _VICTIM,
        _signed_by(trust_pb2.AUTHORITY_KIND_OPERATOR),
        9,
        35,
    ),
    _refused(
        "a leaf of the database authority",
        _VICTIM,
        _signed_by(trust_pb2.AUTHORITY_KIND_DATABASE),
        9,
    ),
    _refused("a leaf of the root itself", _VICTIM, _signed_by(trust_pb2.AUTHORITY_KIND_ROOT), 9),
    _refused(
        "a service's own certificate on the guest port",
        "a stolen service key speaks for guests",
        lambda s: s.show(s.service("conductor")),
        9,
    ),
    _refused(
        "the operator's certificate on the guest port",
        "an operator's key speaks for guests",
        lambda s: s.show(s.operator),
        35,
    ),
    _refused("a server's certificate", _VICTIM, _spoiled(purposes=(SERVER,)), 10),
    _refused("a leaf that may not sign", _VICTIM, _spoiled(signs_nothing=True), 13),
    _refused(
        "the guest authority's own certificate",
        "the key of an authority is an identity",
        _authority(trust_pb2.AUTHORITY_KIND_GUEST),
        14,
    ),
    _refused(
        "the root's own certificate",
        "the key of an authority is an identity",
        _authority(trust_pb2.AUTHORITY_KIND_ROOT),
        14,
    ),
    _refused(
        "an authority below the guests' own with its name and key identifier",
        _VICTIM,
        _below(is_authority=True, takes_key_id=True, takes_name=True),
        14,
    ),
    _refused(
        "a leaf signed by a guest's leaf",
        "every guest is an authority",
        _below(is_authority=False),
        14,
        smoke=True,
    ),
    _refused(
        "the victim's id in the common name, no names",
        _VICTIM,
        lambda s: s.show(s.forge.sign(_leaf(s).with_(names=(), subject=s.neighbour.id))),
        15,
    ),
    _refused(
        "an address among the names",
        _VICTIM,
        lambda s: s.show(
            s.forge.sign(_leaf(s).with_(names=(*_leaf(s).names, address_name("127.0.0.1"))))
        ),
    ),
    _refused(
        "an unknown critical extension",
        _VICTIM,
        _spoiled(
            more=(
                (
                    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"),
                    True,
                ),
            )
        ),
    ),
    _refused("an Ed25519 leaf", _VICTIM, _spoiled(key="Ed25519"), 42),
    _refused("a chain of 400 certificates", "the gateway spends its time on chains", _long_chain),
    _refused(
        "the engine's certificate and key", "the engine's key is an identity", _engine_key_as_agent
    ),
    _refused(
        "plaintext HTTP/2",
        "a listener without TLS",
        _plaintext(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9),
        22,
        smoke=True,
    ),
    _refused(
        "plaintext HTTP/1.1",
        "a listener without TLS",
        _plaintext(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        22,
    ),
    _refused("TLS for another protocol than HTTP/2", "a parser nobody tested", _without_alpn),
)

PROFILES = (
    _misread("no extended key usage", _spoiled(purposes=None), 11, 25, smoke=True),
    _misread("clientAuth and codeSigning", _spoiled(purposes=(CLIENT, CODE)), 12),
    _misread("clientAuth and serverAuth", _spoiled(purposes=(CLIENT, SERVER)), 12),
    _misread("a leaf that is an authority", _spoiled(is_authority=True), 13),
    _misread("a leaf that may sign certificates", _spoiled(usage=("key_cert_sign",)), 13),
    _misread("a leaf that may sign revocation lists", _spoiled(usage=("crl_sign",)), 13),
    _misread("an authority below the guests' own", _below(is_authority=True), 14),
    _misread(
        "an authority below the guests' own with its key identifier",
        _below(is_authority=True, takes_key_id=True),
        14,
    ),
    _misread("no basic constraints", _spoiled(without=(x509.BasicConstraints,)), 13),
    _misread("no key usage", _spoiled(without=(x509.KeyUsage,)), 13),
    _misread("no authority key identifier", _spoiled(has_authority_key_id=False)),
    _misread(
        "the victim's id in the common name beside the attacker's name",
        lambda s: s.show(
            s.forge.sign(
                s.forge.guest(s.attacked.tenant, s.attacked.id).with_(
                    names=(x509.DNSName(s.neighbour.id),), subject=s.neighbour.id
                )
            )
        ),
        15,
    ),
    _misread(
        "two URI names, the attacker's and the victim's",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(
                    names=(*s.forge.guest(s.attacked.tenant, s.attacked.id).names, *_leaf(s).names)
                )
            )
        ),
        smoke=True,
    ),
    _misread(
        "the victim's name twice",
        lambda s: s.show(s.forge.sign(_leaf(s).with_(names=_leaf(s).names * 2))),
    ),
    _misread(
        "a DNS name beside the URI",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(names=(*_leaf(s).names, x509.DNSName("gateway.local.trove")))
            )
        ),
    ),
    _misread("a DNS name alone", _spoiled(names=(x509.DNSName("gateway.local.trove"),))),
    _misread(
        "an e-mail address beside the URI",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(names=(*_leaf(s).names, x509.RFC822Name("root@example.org")))
            )
        ),
    ),
    _misread(
        "a registered id beside the URI",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(
                    names=(*_leaf(s).names, x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))
                )
            )
        ),
    ),
    _misread(
        "a directory name beside the URI",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(
                    names=(
                        *_leaf(s).names,
                        x509.DirectoryName(
                            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
                        ),
                    )
                )
            )
        ),
    ),
    _misread("an RSA key", _spoiled(key="RSA-2048"), 42),
    _misread("a weak RSA key", _spoiled(key="RSA-1024"), 42),
    _misread("a P-384 key", _spoiled(key="P-384"), 42),
    _misread(
        "a service's name under the guest authority",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(
                    names=(uri(f"spiffe://{s.forge.trust_domain}/service/conductor/local"),),
                    purposes=(CLIENT,),
                )
            )
        ),
        9,
    ),
    _misread(
        "an operator's name under the guest authority",
        lambda s: s.show(
            s.forge.sign(
                _leaf(s).with_(names=(uri(f"spiffe://{s.forge.trust_domain}/operator/root"),))
            )
        ),
        9,
    ),
)

# What must not be read as the victim's name, though it looks like it (E.3 18 and 19).
_VARIANTS: dict[str, Callable[[str, Scene], str]] = {
    "a NUL after the victim's name": lambda good, scene: f"{good}\x00/../{scene.attacked.id}",
    "a NUL at the end": lambda good, _: f"{good}\x00",
    "a slash at the end": lambda good, _: f"{good}/",
    "a line feed at the end": lambda good, _: f"{good}\n",
    "a carriage return at the end": lambda good, _: f"{good}\r",
    "a space at the end": lambda good, _: f"{good} ",
    "a space before": lambda good, _: f" {good}",
    "a scheme in capitals": lambda good, _: good.replace("spiffe://", "SPIFFE://"),
    "a domain in capitals": lambda good, _: good.replace("local.trove", "LOCAL.TROVE"),
    "an id in capitals": lambda good, scene: good.replace(
        scene.neighbour.id, scene.neighbour.id.upper()
    ),
    "an escaped character": lambda good, _: good.replace("/tenant/", "/%74enant/"),
    "an escaped dot": lambda good, _: good.replace("local.trove", "local%2etrove"),
    "a step up": lambda good, scene: good.replace(
        "/instance/", f"/instance/{scene.attacked.id}/../"
    ),
    "an empty segment": lambda good, _: good.replace("/instance/", "//instance/"),
    "a port": lambda good, _: good.replace("local.trove", "local.trove:443"),
    "user information": lambda good, _: good.replace("local.trove", "x@local.trove"),
    "a query": lambda good, _: f"{good}?x=1",
    "a fragment": lambda good, _: f"{good}#x",
    "a semicolon": lambda good, _: f"{good};x",
    "a backslash": lambda good, _: good.replace("/instance/", "\\instance/"),
    "a look-alike letter": lambda good, _: good.replace("tenant", "t\u0435nant"),
    "a digit of another script": lambda good, _: good[:-1] + "\u0661",
    "a name of 4 KiB": lambda good, _: good + "a" * 4096,
    "another trust domain": lambda good, _: good.replace("local.trove", "other.trove"),
    "a longer trust domain": lambda good, _: good.replace("local.trove", "local.trove.evil"),
    "a domain with a dot at the end": lambda good, _: good.replace("local.trove", "local.trove."),
    "https instead of spiffe": lambda good, _: good.replace("spiffe", "https"),
    "an id with braces": lambda good, scene: good.replace(
        scene.neighbour.id, "{" + scene.neighbour.id + "}"
    ),
    "an id without dashes": lambda good, scene: good.replace(
        scene.neighbour.id, scene.neighbour.id.replace("-", "")
    ),
    "an empty tenant": lambda good, scene: good.replace(f"/{scene.neighbour.tenant}/", "//"),
    "a tenant with a slash": lambda good, scene: good.replace(
        scene.neighbour.tenant, f"{scene.neighbour.tenant}/x"
    ),
    "no text at all": lambda _good, _scene: "",
}
NAMES = tuple(
    _misread(
        f"{what} in the URI name",
        _named(spoil),
        18 if "NUL" in what else 19,
        *((24,) if "trust domain" in what else ()),
        reason="BAD_IDENTITY",
        smoke=what == "a NUL after the victim's name",
    )
    for what, spoil in _VARIANTS.items()
)

LIVES = (
    Attack(
        name="TLS 1.2",
        threat="an older handshake shows the certificate in the clear",
        run=_old_tls,
        expect=(UA,),
        reason="TLS_VERSION",
        cases=(22,),
    ),
    Attack(
        name="a session resumed after its certificate expired",
        threat=_BEYOND,
        run=_resumed_after_expiry,
        expect=(UA,),
        reason="CERTIFICATE_EXPIRED",
        cases=(6,),
    ),
    Attack(
        name="a session resumed after its certificate was denied",
        threat=_BEYOND,
        run=_resumed_after_revocation,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
        cases=(6,),
    ),
    Attack(
        name="a call on a connection older than its certificate's end",
        threat=_BEYOND,
        run=_open_connection_after_expiry,
        expect=(UA,),
        reason="CERTIFICATE_EXPIRED",
        cases=(7,),
    ),
    Attack(
        name="a stream older than its certificate's end",
        threat=_BEYOND,
        run=_open_stream_after_expiry,
        expect=(UA,),
        reason="CERTIFICATE_EXPIRED",
        cases=(7,),
        own=True,
    ),
)

SERVERS = tuple(
    Attack(
        name=name,
        threat="the attacker poses as the gateway to another agent and takes its reports",
        run=_as_server(leaf),
        expect=(DISTRUSTED,),
        trail=NO_TRAIL,
        cases=(25,),
    )
    for name, leaf in {
        "a guest's own leaf as a server's": lambda s: s.stolen,
        "a guest's leaf without extended key usage as a server's": lambda s: s.forge.sign(
            s.forge.guest(s.attacked.tenant, s.attacked.id).with_(
                purposes=None, names=(x509.DNSName("gateway.local.trove"),)
            )
        ),
        "a serverAuth leaf of the guest authority as a server's": lambda s: s.forge.sign(
            s.forge.guest(s.attacked.tenant, s.attacked.id).with_(
                purposes=(SERVER,), names=(x509.DNSName("gateway.local.trove"),)
            )
        ),
        "a database server's leaf as a gateway's": lambda s: s.forge.sign(
            s.forge.guest(s.attacked.tenant, s.attacked.id).with_(
                purposes=(SERVER,),
                names=(x509.DNSName("gateway.local.trove"),),
                signed_by=trust_pb2.AUTHORITY_KIND_DATABASE,
            )
        ),
        "another service's leaf as a gateway's": lambda s: s.service("conductor"),
    }.items()
)

ISSUED = (
    Attack(
        name="looking for an issued leaf that could be a server's",
        threat="the attacker poses as the gateway to another agent",
        run=_issued_profile,
        expect=(ABSENT,),
        trail=NO_TRAIL,
        cases=(25,),
    ),
)

ATTACKS = (*HANDSHAKES, *PROFILES, *NAMES, *LIVES, *SERVERS, *ISSUED)
