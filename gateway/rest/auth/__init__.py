"""Who calls: nobody is asked on the loopback, elsewhere Keystone is."""

from gateway.rest.auth.contract import Authenticator, Caller
from gateway.rest.auth.no_auth import NoAuth

__all__ = ["Authenticator", "Caller", "NoAuth"]
