"""The proxy to the API server that the environment names: by the rules of kubectl, which are Go's.

HTTPS_PROXY holds for https, HTTP_PROXY for http, NO_PROXY for neither, each also in lower case. Nothing asks a proxy
for loopback. Source: golang.org/x/net/http/httpproxy (`FromEnvironment`, `useProxy`, `init`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from workload_generator.base.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(server: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the proxy for requests to `server`, or None. Raises UsageError when it is none that can be used."""
    parts = urlsplit(server)
    name = f"{parts.scheme}_proxy"
    proxy = _either(environment, name)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    if not proxy or _is_excluded(host, port, _either(environment, "no_proxy")):
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(url).scheme
    if scheme not in _PORTS:
        raise UsageError(f"{name.upper()}: {scheme} proxies are not supported; name one with http:// or https://")
    return url


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    ip = _ip_of(host)
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, ip, port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, ip: _Ip | None, port: int) -> bool:
    """Whether an entry of NO_PROXY, in lower case, is about this host and port."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return ip is not None and ip in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, its_port = _split(entry)
    if not name or (its_port and its_port != str(port)):
        return False
    its_ip = _ip_of(name)
    if its_ip is not None:
        return its_ip == ip
    domain = name[1:] if name.startswith("*.") else name
    return host.endswith(domain) if domain.startswith(".") else host == domain or host.endswith(f".{domain}")


def _split(entry: str) -> tuple[str, str]:
    """The host and the port of `host`, `host:port`, an IP address or `[IPv6]:port`; no port is empty."""
    if entry.startswith("[") and "]:" in entry:
        name, _, port = entry[1:].rpartition("]:")
        return name, port
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""


def _ip_of(host: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
