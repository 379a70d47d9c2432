"""`init`: makes the authorities, once."""

from __future__ import annotations

import datetime as dt

from cryptography import x509

from pki.cli.console import Column
from pki.cli.exits import Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation


def register(verbs: Verbs) -> None:
    verbs.verb("init", _init, "create the authorities that are missing", reach=Reach.CONFIG)


def _init(invocation: Invocation) -> Exit:
    # Only here: everything else speaks to the issuer and must not reach a CA key.
    from pki.cli import settings
    from pki.issuer import bootstrap
    from pki.issuer.custody import open_custody
    from pki.store import Store

    loaded = settings.load(invocation.options.config)
    custody = open_custody(loaded)
    custody.prepare()
    store = Store(loaded.database_url, password_file=loaded.database_password_file)
    try:
        store.migrate()
        now = dt.datetime.now(dt.UTC)
        created = store.run_now(
            lambda session: bootstrap.initialise(session, custody, loaded, now)
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
            "expire_time": x509.load_pem_x509_certificate(row.certificate_pem).not_valid_after_utc,
            "key": f"{row.key_name} in {custody.location}",
        }
        for row in created
    ]
    columns = [
        Column("AUTHORITY", "authority"),
        Column("GEN", "generation"),
        Column("EXPIRES", "expire_time"),
        Column("KEY", "key"),
    ]
    invocation.console.show(rows, columns, empty="nothing to do: all authorities exist")
    return Exit.OK
