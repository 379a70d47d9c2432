"""Who a peer is: each condition on its certificate, its name, its connection."""

from __future__ import annotations

from tests.mutations.mutation import AUTHENTICATOR, FEDERATED, IDENTIFY, LISTENERS, NAMES, removed

_IDENTITY = "trove_grpc/identity.py"
_NAMES = "trove_grpc/names.py"
_AROUND = "trove_grpc/interceptors.py"
_SERVER = "trove_grpc/server.py"
_TLS = "trove_grpc/tls.py"

MUTATIONS = (
    removed(
        "no second URI name", _IDENTITY, "if len(uris) != 1:", IDENTIFY, new="if len(uris) < 1:"
    ),
    removed("a URI name", _IDENTITY, "if len(uris) != 1:", IDENTIFY, new="if len(uris) > 1:"),
    removed(
        "no DNS names in a client's certificate",
        _IDENTITY,
        "if named.role not in SERVICE_ROLES and dns_names:",
        IDENTIFY,
        new="if not named.role and dns_names:",
    ),
    removed(
        "the purposes of its role and no others",
        _IDENTITY,
        "!= _expected_purposes(named.role):",
        IDENTIFY,
        new="< _expected_purposes(named.role):",
    ),
    removed(
        "all the purposes of its role",
        _IDENTITY,
        "!= _expected_purposes(named.role):",
        IDENTIFY,
        new="- _expected_purposes(named.role):",
    ),
    removed(
        "purposes at all",
        _IDENTITY,
        'raise _bad_profile("no extended key usage") from error',
        IDENTIFY,
        new="return frozenset({ExtendedKeyUsageOID.CLIENT_AUTH})",
    ),
    removed(
        "an authority of its kind",
        _IDENTITY,
        "if authority is None or authority.kind != _KIND_BY_ROLE[named.role]:",
        IDENTIFY,
        new="if authority is None:",
    ),
    removed(
        "the authority's own signature",
        _IDENTITY,
        "    _require_signature(certificate, authority, named.uri)\n",
        IDENTIFY,
    ),
    removed(
        "a P-256 key, not any curve",
        _IDENTITY,
        "public_key.curve, ec.SECP256R1",
        IDENTIFY,
        new="public_key.curve, ec.EllipticCurve",
    ),
    removed(
        "no authority's certificate", _IDENTITY, ".value.ca:", IDENTIFY, new=".value.ca is None:"
    ),
    removed(
        "a key that may sign",
        _IDENTITY,
        "if not usage.digital_signature or usage",
        IDENTIFY,
        new="if usage",
    ),
    removed("a key that signs no certificates", _IDENTITY, "usage.key_cert_sign or ", IDENTIFY),
    removed("a key that signs no revocation lists", _IDENTITY, " or usage.crl_sign", IDENTIFY),
    removed(
        "no names but URI and DNS",
        _IDENTITY,
        'raise ValueError("names other than URI and DNS")',
        IDENTIFY,
        new="pass",
    ),
    removed(
        "the name's trust domain chooses the roots",
        _IDENTITY,
        "if region.trust_domain == domain != bundle.trust_domain:",
        FEDERATED,
        new="if domain != bundle.trust_domain:",
    ),
    removed(
        "another region's bundle says nothing of our own names",
        _IDENTITY,
        "if region.trust_domain == domain != bundle.trust_domain:",
        FEDERATED,
        new="if region.trust_domain == domain:",
    ),
    removed(
        "of another region its services alone",
        _IDENTITY,
        "if named.role not in SERVICE_ROLES:",
        FEDERATED,
        new="if not named.role:",
    ),
    removed(
        "another region's services are not ours",
        _IDENTITY,
        "        role=Role.FEDERATED,\n",
        FEDERATED,
    ),
    removed(
        "another region's authority for services signs them",
        _IDENTITY,
        " and frozenset(purposes) == _PURPOSES_OF_A_SERVICE",
        FEDERATED,
    ),
    removed("an end", _IDENTITY, "now >= identity.not_valid_after", IDENTIFY, new="now > now"),
    removed(
        "an end, to the moment",
        _IDENTITY,
        "now >= identity.not_valid_after",
        IDENTIFY,
        new="now > identity.not_valid_after",
    ),
    removed("the name's end is its end", _NAMES, r'r")\Z"', NAMES, new=r'r")"'),
    removed("no line feed after the name", _NAMES, r'r")\Z"', NAMES, new=r'r")$"'),
    removed("our own trust domain", _NAMES, ' or match["domain"] != trust_domain', NAMES),
    removed(
        "a service that exists", _NAMES, '_SERVICES = "api|', NAMES, new='_SERVICES = "root|api|'
    ),
    removed(
        "lower-case domains",
        _NAMES,
        "    re.ASCII,\n",
        NAMES,
        new="    re.ASCII | re.IGNORECASE,\n",
    ),
    removed(
        "TLS 1.3",
        _AROUND,
        'if properties.get("ssl_tls_version") != [b"TLSv1.3"]:',
        AUTHENTICATOR,
        new='if properties.get("ssl_tls_version") is None:',
    ),
    removed(
        "an expired identity is refused on a live connection",
        _AROUND,
        "            identity.check_validity(caller, self._now())\n",
        AUTHENTICATOR,
    ),
    removed(
        "a denied identity is refused",
        _AROUND,
        "if self._denials is not None and (refusal",
        LISTENERS,
        new="if self._denials is None and (refusal",
    ),
    removed(
        "a new bundle is a new judgement",
        _AROUND,
        "key = (hashlib.sha256(pem).digest(), bundle.version)",
        AUTHENTICATOR,
        new="key = (hashlib.sha256(pem).digest(), 0)",
    ),
    removed(
        "guest listeners trust guests alone",
        _SERVER,
        "GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_GUEST})",
        LISTENERS,
        new="GUEST_TRUSTS = frozenset("
        "{trust_pb2.AUTHORITY_KIND_GUEST, trust_pb2.AUTHORITY_KIND_SERVICE})",
    ),
    removed(
        "guest listeners do not trust the root",
        _SERVER,
        "GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_GUEST})",
        LISTENERS,
        new="GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_ROOT})",
    ),
    removed(
        "internal listeners trust no guests",
        _SERVER,
        "INTERNAL_TRUSTS = frozenset({",
        LISTENERS,
        new="INTERNAL_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_GUEST, ",
    ),
    removed(
        "mutual TLS asks for a certificate",
        _TLS,
        "require_client_authentication=True",
        LISTENERS,
        new="require_client_authentication=False",
    ),
    removed(
        "withdrawn authorities are not trusted",
        _TLS,
        " and authority.state in _TRUSTED_STATES",
        "tests/unit/trove_grpc/test_identify.py",
    ),
    removed(
        "a client demands its server's role",
        "trove_grpc/client.py",
        "expected_server(bundle, self._server_role),",
        LISTENERS,
        new='("grpc.ssl_target_name_override", "conductor.local.trove"),',
    ),
)
