"""The command line `trove-pki`: what operators ask of the issuer, and how they are answered.

Everything but `init`, `custody`, `backup`, `restore` and `rebuild` speaks to the issuer over gRPC
and cannot reach a CA key: those five import the CA's side, each inside its own function.
"""
