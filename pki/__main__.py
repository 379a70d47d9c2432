"""`trove-pki`: creates the PKI, enrols services and operators, shows and denies certificates.

Exit codes: 0 done, 1 failed, 2 usage, 3 nothing to do, 4 refused by a safety gate,
6 issuer unreachable, 7 integrity failure.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from pki import enrolment, profiles
from trove_grpc import client, config, logs, process
from trove_grpc.errors import DeadlineError, InvalidRequestError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import SERVICE_ROLES, Role
from trove_grpc.tls import IdentityDirectory

OK, FAILED, USAGE, NOTHING_TO_DO, REFUSED, UNREACHABLE, INTEGRITY = 0, 1, 2, 3, 4, 6, 7
_TIMEOUT = 10.0
Row = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logs.configure("trove-pki", level="WARNING")
    process.harden()
    try:
        status: int = options.run(options)
    except (UnavailableError, DeadlineError) as error:
        return _fail(error, UNREACHABLE)
    except InvalidRequestError as error:
        return _fail(error, USAGE)
    except TroveError as error:
        return _fail(error, INTEGRITY if error.reason == "CUSTODY" else FAILED)
    return status


def _fail(error: TroveError, status: int) -> int:
    print(f"trove-pki: {error.message}", file=sys.stderr)
    return status


def _init(options: argparse.Namespace) -> int:
    # Only here: everything else speaks to the issuer and must not reach a CA key.
    from pki.issuer import bootstrap  # noqa: PLC0415
    from pki.issuer.config import Config  # noqa: PLC0415
    from pki.issuer.custody import open_custody  # noqa: PLC0415
    from pki.store import Store  # noqa: PLC0415

    settings = config.load(
        Config, file=options.config, environment=os.environ, prefix="TROVE_ISSUER"
    )
    custody = open_custody(settings)
    custody.prepare()
    store = Store(settings.database_url, password_file=settings.database_password_file)
    try:
        store.migrate()
        now = dt.datetime.now(dt.UTC)
        created = store.run_now(
            lambda session: bootstrap.initialise(session, custody, settings, now)
        )
        store.run_now(lambda session: bootstrap.keep_certificates(session, custody))
        # Proves that every key is there and fits, on the first run and on each later one.
        store.run_now(lambda session: bootstrap.load(session, custody))
    finally:
        store.close()
    rows = [
        {
            "authority": row.kind,
            "generation": row.generation,
            "expires": _expiry(row.certificate_pem),
            "key": f"{row.key_name} in {custody.location}",
        }
        for row in created
    ]
    _show(options, rows, empty="nothing to do: all authorities exist")
    return OK


def _enrol_service(options: argparse.Namespace) -> int:
    identity = IdentityDirectory(options.identity)
    asyncio.run(
        enrolment.enrol_service(options.socket, Role(options.role), options.host, identity)
    )
    return _show_identity(options, identity)


def _issue_operator(options: argparse.Namespace) -> int:
    identity = IdentityDirectory(options.identity)
    lifetime = None if options.hours is None else dt.timedelta(hours=options.hours)
    asyncio.run(enrolment.issue_operator(options.socket, options.name, identity, lifetime))
    return _show_identity(options, identity)


def _list_certificates(options: argparse.Namespace) -> int:
    async def work(stub: rpc.IssuerServiceStub) -> list[Row]:
        rows: list[Row] = []
        token = ""
        while True:
            page = await client.call(
                stub.ListCertificates,
                pb.ListCertificatesRequest(subject=options.subject, page_token=token),
                timeout=_TIMEOUT,
                retry=True,
            )
            rows += [_certificate_row(each) for each in page.certificates]
            token = page.next_page_token
            if not token:
                return rows

    _show(options, _ask(options, work), empty="no certificates")
    return OK


def _create_token(options: argparse.Namespace) -> int:
    async def work(stub: rpc.IssuerServiceStub) -> Row:
        request = pb.MintTokenRequest(instance_id=options.instance)
        if options.minutes is not None:
            request.lifetime.FromTimedelta(dt.timedelta(minutes=options.minutes))
        answer = await client.call(stub.MintToken, request, timeout=_TIMEOUT)
        return {
            "token_id": answer.token_id,
            "token": answer.token,
            "expires": _iso(answer.expire_time),
        }

    _show(options, [_ask(options, work)])
    return OK


def _show_bundle(options: argparse.Namespace) -> int:
    async def work(stub: rpc.IssuerServiceStub) -> Any:
        answer = await client.call(
            stub.GetTrustBundle, pb.GetTrustBundleRequest(), timeout=_TIMEOUT, retry=True
        )
        return answer.bundle

    bundle = _ask(options, work)
    wanted = [
        authority
        for authority in bundle.authorities
        if not options.authority or profiles.KIND_NAMES[authority.kind] == options.authority
    ]
    if options.pem:
        for authority in wanted:
            sys.stdout.write(authority.certificate_pem.decode("ascii"))
        return OK if wanted else NOTHING_TO_DO
    rows = [
        {
            "authority": profiles.KIND_NAMES[authority.kind],
            "generation": authority.generation,
            "state": trust_pb2.AuthorityState.Name(authority.state).removeprefix(
                "AUTHORITY_STATE_"
            ),
            "expires": _expiry(authority.certificate_pem),
            "bundle": bundle.version,
            "trust_domain": bundle.trust_domain,
        }
        for authority in wanted
    ]
    _show(options, rows)
    return OK


def _deny(options: argparse.Namespace) -> int:
    kind = options.kind.upper()
    if not options.yes:
        print(
            f"would deny {options.kind} {options.value}: its connections end within seconds and "
            "it cannot come back without a new identity. Repeat with --yes.",
            file=sys.stderr,
        )
        return REFUSED

    async def work(stub: rpc.IssuerServiceStub) -> Row:
        answer = await client.call(
            stub.CreateDenial,
            pb.CreateDenialRequest(
                kind=pb.DenialKind.Value(f"DENIAL_KIND_{kind}"),
                value=options.value,
                reason=options.reason,
            ),
            timeout=_TIMEOUT,
            retry=True,
        )
        denial = answer.denial
        return {
            "sequence": denial.sequence,
            "kind": options.kind,
            "value": denial.value,
            "reason": denial.reason,
            "effective": _iso(denial.effective_time),
        }

    _show(options, [_ask(options, work)])
    return OK


def _ask(
    options: argparse.Namespace, work: Callable[[rpc.IssuerServiceStub], Awaitable[Any]]
) -> Any:
    """Run `work` with a stub of the issuer behind the operator socket."""

    async def run() -> Any:
        async with client.open_local_channel(options.socket) as channel:
            return await work(rpc.IssuerServiceStub(channel))

    return asyncio.run(run())


def _show_identity(options: argparse.Namespace, identity: IdentityDirectory) -> int:
    leaf = identity.load().leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    row = {
        "spiffe_id": names.get_values_for_type(x509.UniformResourceIdentifier)[0],
        "serial": f"{leaf.serial_number:x}",
        "expires": f"{leaf.not_valid_after_utc:%FT%TZ}",
        "directory": str(identity.root),
    }
    _show(options, [row])
    return OK


def _certificate_row(certificate: pb.IssuedCertificate) -> Row:
    state = pb.CertificateState.Name(certificate.state)
    return {
        "serial": certificate.serial,
        "name": certificate.spiffe_id,
        "authority": f"{profiles.KIND_NAMES[certificate.authority]} g{certificate.generation}",
        "state": state.removeprefix("CERTIFICATE_STATE_"),
        "issued": _iso(certificate.issue_time),
        "expires": _iso(certificate.expire_time),
    }


def _show(options: argparse.Namespace, rows: Sequence[Row], empty: str = "") -> None:
    if options.output == "json":
        print(json.dumps(list(rows), indent=2))
        return
    if not rows:
        print(empty)
        return
    titles = list(rows[0])
    cells = [[title.upper() for title in titles]]
    cells += [[str(row[title]) for title in titles] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _iso(stamp: Any) -> str:
    moment: dt.datetime = stamp.ToDatetime(tzinfo=dt.UTC)
    return f"{moment:%FT%TZ}"


def _expiry(certificate_pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc:%FT%TZ}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trove-pki", description=__doc__)
    parser.add_argument("--output", choices=("table", "json"), default="table")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    init = verbs.add_parser("init", help="create the authorities that are missing")
    init.add_argument("--config", type=Path, required=True, help="the issuer's TOML file")
    init.set_defaults(run=_init)

    service = _group(verbs, "service", "identities of control-plane processes")
    enrol = _verb(service, "enrol", _enrol_service, "give a directory a service's identity")
    enrol.add_argument("--role", choices=sorted(SERVICE_ROLES), required=True)
    enrol.add_argument("--host", required=True, help="tells processes of one role apart")
    enrol.add_argument("--identity", type=Path, required=True, help="directory to fill")

    operator = _group(verbs, "operator", "identities of people and tools")
    issue = _verb(operator, "issue", _issue_operator, "give a directory an operator's identity")
    issue.add_argument("--name", required=True)
    issue.add_argument("--identity", type=Path, required=True, help="directory to fill")
    issue.add_argument("--hours", type=float, help="at most the issuer's limit")

    certificates = _group(verbs, "certs", "issued certificates")
    listing = _verb(certificates, "list", _list_certificates, "newest first")
    listing.add_argument("--subject", default="", help="an instance id or a full SPIFFE ID")

    token = _group(verbs, "token", "one-time enrolment tokens")
    create = _verb(token, "create", _create_token, "a new token; older ones become void")
    create.add_argument("--instance", required=True)
    create.add_argument("--minutes", type=float, help="at most the issuer's limit")

    bundle = _group(verbs, "bundle", "what peers trust")
    show = _verb(bundle, "show", _show_bundle, "the bundle in force")
    show.add_argument("--authority", choices=sorted(profiles.KINDS_BY_NAME), default="")
    show.add_argument("--pem", action="store_true", help="certificates, for other programs")

    deny = verbs.add_parser("deny", help="refuse an identity from now on")
    deny.add_argument("kind", choices=("serial", "key", "instance", "tenant", "generation"))
    deny.add_argument("value")
    deny.add_argument("--reason", required=True)
    deny.add_argument("--yes", action="store_true", help="do it; without, only say what it does")
    _add_socket(deny)
    deny.set_defaults(run=_deny)
    return parser


def _group(verbs: Any, name: str, text: str) -> Any:
    return verbs.add_parser(name, help=text).add_subparsers(required=True, metavar="VERB")


def _verb(
    group: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = group.add_parser(name, help=text)
    _add_socket(verb)
    verb.set_defaults(run=run)
    return verb


def _add_socket(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, required=True, help="the issuer's operator socket")


if __name__ == "__main__":
    sys.exit(main())
