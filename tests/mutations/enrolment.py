"""First identities, next ones, coming back: each condition of the issuer and of the gateway."""

from __future__ import annotations

from tests.mutations.mutation import (
    CSR,
    FIRST,
    INVENTORY,
    NONCES,
    RECOVERY,
    REFUSALS,
    RENEWAL,
    TOKENS,
    removed,
)

_CSR = "pki/csr.py"
_GUESTS = "pki/issuer/guests.py"
_RECOVERY = "pki/issuer/recovery.py"
_NONCES = "pki/issuer/nonces.py"
_EDGE = "gateway/guest/enrolment.py"
_OWN = "gateway/guest/identity.py"
_STORE = "pki/store/tokens.py"
_SHAPE = "tests/unit/pki/test_small_parts.py"
_SHARES = "tests/unit/gateway_guest/test_enrolment.py"

MUTATIONS = (
    # Requests.
    removed("a request is short", _CSR, "if len(der) > MAX_BYTES:", CSR, new="if len(der) < 0:"),
    removed(
        "a request's key is P-256",
        _CSR,
        "public_key.curve, ec.SECP256R1",
        CSR,
        new="public_key.curve, ec.EllipticCurve",
    ),
    removed(
        "a request names nothing",
        _CSR,
        "    if subject:\n",
        CSR,
        new="    if subject and extensions:\n",
    ),
    # Extensions stand in an attribute: either check alone refuses them.
    removed(
        "a request asks for nothing",
        _CSR,
        '    if extensions:\n        raise _refused("CSR_EXTENSION", "it asks for extensions")\n'
        "    if attributes:\n",
        CSR,
        new="    if attributes and subject:\n",
    ),
    removed(
        "a request carries no attributes",
        _CSR,
        "    if attributes:\n",
        CSR,
        new="    if attributes and subject:\n",
    ),
    removed(
        "a request is signed by its key",
        _CSR,
        "    if not signed:\n",
        CSR,
        new="    if subject:\n",
    ),
    # Tokens.
    removed(
        "a token has one spelling",
        "pki/tokens.py",
        " if _encode(secret) == match[2] else None",
        _SHAPE,
    ),
    removed(
        "a token's secret is compared",
        _GUESTS,
        "if row is None or not is_right:",
        TOKENS,
        new="if row is None:",
    ),
    removed(
        "a token is locked after wrong tries",
        _GUESTS,
        "if row.attempts >= self._config.token_max_failures:",
        TOKENS,
        new="if row.attempts < 0:",
    ),
    removed(
        "wrong tries are counted",
        _GUESTS,
        "            tokens.count_failure(session, shown.lookup)\n",
        TOKENS,
    ),
    removed(
        "a token is for one instance",
        _GUESTS,
        "if row.instance_id != instance_id:",
        TOKENS,
        new="if not row.instance_id:",
    ),
    removed(
        "a void token is void",
        _GUESTS,
        'return "void" if row.void_time is not None else None',
        TOKENS,
        new="return None",
    ),
    removed("a token expires", _GUESTS, "if now >= row.expire_time:", TOKENS, new="if now < now:"),
    removed(
        "a used token is for its key alone",
        _GUESTS,
        "if row.used_by_key != wanted:",
        TOKENS,
        new="if not row.used_by_key:",
    ),
    removed(
        "a used token answers for ten minutes",
        _GUESTS,
        "            or now - row.used_at >= self._config.token_retry_window\n",
        TOKENS,
    ),
    removed(
        "a used token answers until its certificate was used",
        _GUESTS,
        "            or certificate.state != certificates.PENDING\n",
        TOKENS,
    ),
    removed(
        "a token is used once",
        _STORE,
        "Token.used_at.is_(None), Token.void_time.is_(None))\n        .values(used_at=now",
        TOKENS,
        new="Token.void_time.is_(None))\n        .values(used_at=now",
    ),
    removed(
        "a newer token voids older ones",
        _STORE,
        "    void(session, token.instance_id, token.create_time)\n",
        TOKENS,
    ),
    removed(
        "a retired instance has no identity",
        "pki/store/subjects.py",
        "if subject.state != ACTIVE:",
        RENEWAL,
        new="if not subject.state:",
    ),
    removed(
        "a denied instance cannot enrol",
        _GUESTS,
        "            ledger.refuse_denied(\n"
        "                session, now, instance_id=instance_id, tenant_id=subject.tenant_id\n"
        "            )\n",
        TOKENS,
    ),
    removed(
        "a key that has a certificate cannot enrol",
        _GUESTS,
        "        if certificates.by_key(session, wanted) is not None:\n"
        "            raise ledger.reused_key(instance_id)\n",
        TOKENS,
    ),
    removed(
        "what a machine held ends when it enrols anew",
        _GUESTS,
        'ledger.supersede(session, certificate, reason="enrolled anew", now=now)',
        TOKENS,
        new="pass",
    ),
    removed(
        "an instance is of one tenant",
        "pki/store/subjects.py",
        "if subject.tenant_id != tenant_id:",
        INVENTORY,
        new="if not tenant_id:",
    ),
    # Renewal.
    removed(
        "an expired certificate may not renew",
        _GUESTS,
        "        check_validity(shown, now)\n",
        RENEWAL,
    ),
    removed(
        "a certificate of ours, to the byte",
        _GUESTS,
        "            or x509.load_pem_x509_certificate(row.chain_pem)\n"
        "            != x509.load_pem_x509_certificate(certificate_pem)\n",
        RENEWAL,
    ),
    removed(
        "a superseded certificate may not renew",
        _GUESTS,
        "if row.state == certificates.SUPERSEDED:",
        RENEWAL,
        new="if not row.state:",
    ),
    removed(
        "a key has one certificate",
        _GUESTS,
        "            raise ledger.reused_key(subject.instance_id)\n        self._limit",
        RENEWAL,
        new="            return known\n        self._limit",
    ),
    removed(
        "an engine's key is no agent's",
        _GUESTS,
        "if known.name == name and known.expire_time > now:",
        RENEWAL,
        new="if known.expire_time > now:",
    ),
    removed(
        "renewals are limited",
        _GUESTS,
        "        self._limit(session, present.name, _GUEST, now)\n",
        RENEWAL,
    ),
    # Recovery.
    removed(
        "a recovery's certificate is the instance's own",
        _RECOVERY,
        "or shown.instance_id != request.instance_id:",
        RECOVERY,
        new="or not request.instance_id:",
    ),
    removed(
        "a recovery's certificate is one of ours, to the byte",
        _RECOVERY,
        " or not _is_same_leaf(row, request)",
        RECOVERY,
    ),
    removed(
        "a recovery's key is proved",
        _RECOVERY,
        "        if not proof.holds(",
        RECOVERY,
        new="        if not shown.serial and not proof.holds(",
    ),
    removed(
        "a superseded certificate may not recover",
        _RECOVERY,
        "if row.state == certificates.SUPERSEDED:",
        RECOVERY,
        new="if not row.state:",
    ),
    removed(
        "a denied certificate may not recover",
        "pki/issuer/ledger.py",
        "if certificate is not None and certificate.state == certificates.DENIED:",
        RECOVERY,
        new="if certificate is not None and not certificate.state:",
    ),
    removed(
        "a good certificate need not recover",
        _RECOVERY,
        "if now < row.expire_time:",
        RECOVERY,
        new="if now < now:",
    ),
    removed(
        "a recovery has its time",
        _RECOVERY,
        "if now > row.expire_time + self._config.recovery_grace and not is_let_in:",
        RECOVERY,
        new="if now < now:",
    ),
    removed(
        "a compromised authority recovers nobody",
        _RECOVERY,
        "if authority.state == trust_pb2.AUTHORITY_STATE_TAINTED:",
        RECOVERY,
        new="if not authority.state:",
    ),
    removed(
        "a recovery's number is used up",
        "pki/issuer/service.py",
        "            self._nonces.redeem(shown.nonce, instance_id)\n",
        "tests/integration/gateways/test_sleepers.py -k told_and_written",
    ),
    removed(
        "a number is one of ours",
        _NONCES,
        "if len(nonce) != LENGTH or not hmac.compare_digest(seal, self._seal(head, instance_id)):",
        NONCES,
        new="if len(nonce) != LENGTH:",
    ),
    removed(
        "a number is one instance's", _NONCES, "head + instance_id.encode()", NONCES, new="head"
    ),
    removed(
        "a number expires",
        _NONCES,
        "        if now >= ends:\n",
        NONCES,
        new="        if now < 0:\n",
    ),
    removed(
        "a number is used once",
        _NONCES,
        "        if nonce in self._used:\n",
        NONCES,
        new="        if not nonce:\n",
    ),
    # The gateway's part.
    removed(
        "failures of an address are limited",
        _EDGE,
        "if (wait := self._failures.wait(address)) > 0:",
        FIRST,
        new="if (wait := self._failures.wait(address)) < 0:",
    ),
    removed(
        "failures of an address are counted",
        _EDGE,
        "            self._failures.take(address)\n",
        FIRST,
    ),
    removed(
        "no enrolment while denials may be stale",
        _EDGE,
        "        self._feed.require_fresh()\n",
        _SHARES,
    ),
    removed(
        "one address leaves room for others",
        "gateway/guest/places.py",
        "async with line, self._places:",
        _SHARES,
        new="async with self._places:",
    ),
    removed(
        "a long request stops at the gateway",
        _EDGE,
        "if len(request.csr_der) > MAX_CSR_BYTES:",
        FIRST,
        new="if len(request.csr_der) < 0:",
    ),
    removed(
        "an instance id is a UUID",
        _EDGE,
        "if not _INSTANCE_ID.match(instance_id):",
        FIRST,
        new="if instance_id is None:",
    ),
    removed(
        "a long token stops at the gateway",
        _EDGE,
        "if len(request.token) > _MAX_TOKEN:",
        FIRST,
        new="if len(request.token) < 0:",
    ),
    removed(
        "no renewal while denials may be stale",
        _OWN,
        "        self._feed.require_fresh()\n",
        REFUSALS,
    ),
    removed(
        "renewals of an instance are limited at the gateway",
        _OWN,
        "        _take(self._renewals, caller)\n",
        FIRST,
    ),
)
