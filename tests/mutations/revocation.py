"""Who is refused although a certificate verifies: denials, expiry, clones, connections."""

from __future__ import annotations

from tests.mutations.mutation import (
    DENIALS,
    INVENTORY,
    REFUSALS,
    RENEWAL,
    SESSIONS,
    Mutation,
    removed,
)

_LIST = "pki/denials.py"
_LEDGER = "pki/issuer/ledger.py"
_INVENTORY = "pki/issuer/inventory.py"
_CONNECT = "gateway/guest/connect.py"
_FEED = "pki/feed.py"
_WARDEN = "gateway/guest/connections.py"
_CONNECTIONS = "tests/integration/gateway_guest/test_connections.py"
_ISSUER_SIDE = (
    "tests/integration/pki/test_inventory.py tests/integration/pki/test_guest_renewal.py "
    "tests/integration/pki/test_enrolment_tokens.py -k 'not postgresql and not mariadb'"
)

MUTATIONS: tuple[Mutation, ...] = (
    *(
        removed(f"a gateway refuses by {name}", _LIST, line, DENIALS)
        for name, line in {
            "serial": "        (pb.DENIAL_KIND_SERIAL, caller.serial),\n",
            "key": "        (pb.DENIAL_KIND_KEY, caller.key_hash),\n",
            "generation": "        (pb.DENIAL_KIND_GENERATION, "
            'f"{authority}/{caller.generation}"),\n',
            "instance": "        keys.append((pb.DENIAL_KIND_INSTANCE, caller.instance_id))\n",
            "tenant": "        keys.append((pb.DENIAL_KIND_TENANT, caller.tenant_id))\n",
        }.items()
    ),
    *(
        removed(f"the issuer refuses by {name}", _LEDGER, line, _ISSUER_SIDE)
        for name, line in {
            "instance": "        (denials.INSTANCE, instance_id),\n",
            "tenant": "        (denials.TENANT, tenant_id),\n",
            "serial": "            (denials.SERIAL, certificate.serial),\n",
            "key": "            (denials.KEY, certificate.key_hash),\n",
            "generation": "            (denials.GENERATION, "
            'f"{certificate.kind}/{certificate.generation}"),\n',
        }.items()
    ),
    removed(
        "a denial waits for its time",
        _LIST,
        "span.starts <= now < span.ends",
        DENIALS,
        new="now < span.ends",
    ),
    removed(
        "a denial ends at its end",
        _LIST,
        "span.starts <= now < span.ends",
        DENIALS,
        new="span.starts <= now",
    ),
    removed(
        "the earlier start of two denials counts",
        _LIST,
        "min(known.starts, span.starts),",
        DENIALS,
        new="max(known.starts, span.starts),",
    ),
    removed(
        "of two denials the end with the higher number counts",
        _LIST,
        "max(known, span, key=_sequence).ends,",
        DENIALS,
        new="min(known, span, key=_sequence).ends,",
    ),
    removed(
        "serials are one number in any spelling",
        _LIST,
        'return value.lower().lstrip("0")',
        DENIALS,
        new="return value",
    ),
    removed(
        "a live stream of a denied guest ends",
        "gateway/guest/denials.py",
        "            session.end(Ending(refusal))\n",
        REFUSALS,
        new="            pass\n",
    ),
    removed(
        "a denial during admission counts",
        _CONNECT,
        "        if refusal := self._feed.denials.refusal(caller):\n",
        f"{REFUSALS} {SESSIONS}",
        new="        if (refusal := self._feed.denials.refusal(caller)) and not caller:\n",
    ),
    removed(
        "no stream before denials were read",
        _CONNECT,
        "            self._feed.require_loaded()\n",
        REFUSALS,
    ),
    removed(
        "stale denials stop identity work",
        _FEED,
        "if self.age > self._pace.stale:",
        REFUSALS,
        new="if self.age < 0:",
    ),
    removed(
        "a stream ends with its certificate",
        "gateway/guest/session.py",
        "self.end(Ending(_expired(self.caller)))",
        f"{SESSIONS} {REFUSALS}",
        new="pass",
    ),
    removed(
        "a second boot is refused while the first answers",
        _CONNECT,
        "        await self._refuse_clone(caller, hello)\n",
        SESSIONS,
    ),
    removed(
        "a false tenant is refused before any clone is suspected",
        _CONNECT,
        "if rival.caller.tenant_id != caller.tenant_id:",
        REFUSALS,
        new="if not caller.tenant_id:",
    ),
    removed(
        "streams of an instance are bounded",
        _CONNECT,
        "if self._calls[instance_id] > self._config.streams_per_instance:",
        f"{REFUSALS} {SESSIONS}",
        new="if self._calls[instance_id] < 0:",
    ),
    removed(
        "openings of an instance are bounded",
        _CONNECT,
        "if (wait := self._connects.take(caller.instance_id)) > 0:",
        REFUSALS,
        new="if (wait := self._connects.take(caller.instance_id)) < 0:",
    ),
    removed(
        "a retired instance is denied",
        _INVENTORY,
        "        kind=denials.INSTANCE,\n        value=instance_id,\n        reason=reason,",
        INVENTORY,
        new="        kind=denials.INSTANCE,\n        value=reason,\n        reason=reason,",
    ),
    removed(
        "a retired instance's tokens are void",
        _INVENTORY,
        "    tokens.void(session, instance_id, now)\n    latest",
        f"{INVENTORY}",
        new="    latest",
    ),
    removed(
        "a superseded certificate is denied",
        _LEDGER,
        "        value=certificate.serial,\n",
        RENEWAL,
        new='        value="0",\n',
    ),
    removed(
        "an address holds its share and no more",
        _WARDEN,
        "for connection in held[self._shares[port].most :]",
        _CONNECTIONS,
        new="for connection in held[:0]",
    ),
    removed(
        "a session's connection is not cut",
        _WARDEN,
        "if connection.peer not in kept:",
        _CONNECTIONS,
        new="if connection.peer:",
    ),
    removed(
        "refusals reach the audit",
        "gateway/guest/refusals.py",
        "            await call(stub.RecordRefusals, request, timeout=self._timeout)\n",
        f"{REFUSALS} tests/unit/gateway_guest/test_refusals.py",
        new="            stub.RecordRefusals\n",
    ),
)
