"""The issuer: the one process that holds CA keys. It calls nobody."""
