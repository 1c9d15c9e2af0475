"""The proxy to the API server, by kubectl's rules, which are Go's.

A kubeconfig's `proxy-url` comes first and knows no exceptions. Else HTTPS_PROXY or HTTP_PROXY holds, by the server's
scheme, except for hosts in NO_PROXY and for loopback; each name may be in lower case.
Source: golang.org/x/net/http/httpproxy (`FromEnvironment`, `useProxy`, `init`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from workload_generator.base.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(server: str, environment: Mapping[str, str] = os.environ, proxy_url: str | None = None) -> str | None:
    """The URL of the proxy for requests to `server`, or None. Raises UsageError when its scheme is not supported."""
    parts = urlsplit(server)
    name = "proxy-url" if proxy_url else f"{parts.scheme}_proxy".upper()
    proxy = proxy_url or _either(environment, name)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    if not proxy or (not proxy_url and _is_excluded(host, port, _either(environment, "NO_PROXY"))):
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(url).scheme
    if scheme not in _PORTS:
        raise UsageError(f"{name}: {scheme} proxies are not supported: use one with http:// or https://")
    return url


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    ip = _ip_of(host)
    if host == "localhost" or (ip is not None and ip.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, ip, port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, ip: _Ip | None, port: int) -> bool:
    """Whether an entry of NO_PROXY (in lower case) covers this host and port."""
    if entry == "*":
        return True
    try:
        if "/" in entry:
            return ip is not None and ip in ipaddress.ip_network(entry, strict=False)
        parts = urlsplit(f"//[{entry}]" if entry.count(":") > 1 and "[" not in entry else f"//{entry}")
        name, entry_port = parts.hostname or "", parts.port or port
    except ValueError:
        return False
    if not name or entry_port != port:
        return False
    entry_ip = _ip_of(name)
    if entry_ip is not None:
        return entry_ip == ip
    domain = name[1:] if name.startswith("*.") else name
    return host.endswith(domain) if domain.startswith(".") else host == domain or host.endswith(f".{domain}")


def _ip_of(host: str) -> _Ip | None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
