"""The task `mx_records`: runs on the controller, where the key for DNS is, and touches no host.

Promises: with check mode or `mode: check` nothing is changed; a second run finds nothing to change. Never: has the key's secret
among its arguments, in its result or in a diff.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


def _beside(name: str) -> Any:
    """A module of this role. Ansible finds a role's module_utils for modules only; this code runs in the controller itself."""
    known = f"gatepost_role_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).parent.parent / "module_utils" / f"{name}.py")
        if spec is None or spec.loader is None:
            raise AnsibleActionFail(f"the role mx is not whole: module_utils/{name}.py is missing")
        sys.modules[known] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]


def _dnspython() -> Any:
    try:
        return _beside("mx_dns")
    except ImportError as wrong:
        raise AnsibleActionFail(f"the role mx needs dnspython where Ansible runs: pip install dnspython ({wrong})") from wrong


class ActionModule(ActionBase):
    """Compares a domain's records with those that must be there, and has them changed or prints what to paste."""

    _supports_check_mode = True
    _requires_connection = False
    _VALID_ARGS = frozenset(
        {
            "domain",
            "hosts",
            "group",
            "state",
            "mode",
            "texts",
            "sts",
            "sts_web",
            "addresses",
            "server",
            "resolver",
            "key",
            "ttl",
        }
    )

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result: `changed`, `missing` (to paste), `policy` (the MTA-STS file; alone with `mode: policy`), `diff`."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables, args = task_vars or {}, self._task.args
        zone = _beside("mx_zone")
        dns = _dnspython()
        try:
            hosts = self._hosts(zone, args, variables)
            result["policy"] = zone.sts_policy(args["sts"], hosts) if args["sts"] != "none" and hosts else ""
            if args["mode"] == "policy":
                return result
            sets = zone.wanted(args["domain"], hosts, sts=args["sts"], sts_web=args["sts_web"], **args["texts"])
            if not args["addresses"]:
                sets = tuple(one for one in sets if one.type == "MX" or (one.version and not one.only_if_none))
            result |= self._bring_about(zone, dns, args, sets, hosts, variables)
        except (ValueError, dns.DnsError) as wrong:
            raise AnsibleActionFail(str(wrong)) from wrong
        return result

    def _bring_about(
        self, zone: Any, dns: Any, args: dict[str, Any], sets: Any, hosts: Any, variables: dict[str, Any]
    ) -> dict[str, Any]:
        ttl, update = int(args["ttl"]), args["mode"] == "update"
        resolver = dns.make_resolver([str(one) for one in args["resolver"]["addresses"]], int(args["resolver"]["port"]))

        def ask_resolver(name: str, kind: str) -> list[str]:
            found: list[str] = dns.ask_resolver(resolver, name, kind)
            return found

        server = self._server(dns, args, variables) if update else None
        ask = server.ask if server else ask_resolver
        changes = zone.differences(sets, {key: ask(*key) for key in zone.asked_for(sets)})
        # A host whose records are not ours may lie in a zone that our server does not have.
        nowhere = self._addressless(ask if args["addresses"] else ask_resolver, zone, hosts, changes)
        paste = zone.text_to_paste(changes, ttl) + "".join(
            f"; {name}: it needs an A or AAAA record; which, mx_addresses says\n" for name in nowhere
        )
        answer: dict[str, Any] = {"changed": update and bool(changes), "missing": paste}
        if update and changes:
            answer["diff"] = {"before_header": "DNS", "after_header": "DNS"}
            answer["diff"] |= {"before": zone.text_before(changes, ttl), "after": zone.text_after(changes, ttl)}
        if update and nowhere:
            raise ValueError(
                f"DNS has no address for {', '.join(nowhere)}, and none is known: a server may refuse such an MX, and mail "
                "would find nobody. Set mx_addresses for the host."
            )
        if server and changes and not self._task.check_mode:
            self._change(zone, server, sets, changes, ttl)
        if not update and paste:
            head = f"; Missing or wrong in DNS. Ready for the zone file of {args['domain']}:"
            Display().display(f"\n{head}\n{paste}\n", color="yellow")
        return answer

    @staticmethod
    def _addressless(ask: Any, zone: Any, hosts: Any, changes: Any) -> list[str]:
        """Hosts that have no address in DNS, and will have none."""
        coming = {change.name for change in changes if change.type in ("A", "AAAA") and change.add}
        names = [zone.name_of(host.name) for host in hosts]
        return [name for name in names if name not in coming and not ask(name, "A") and not ask(name, "AAAA")]

    @staticmethod
    def _change(zone: Any, server: Any, sets: Any, changes: Any, ttl: int) -> None:
        """One message a zone, the zones with addresses first; then the server is asked whether it is so."""
        by_zone: dict[str, list[Any]] = {}
        for change in changes:
            by_zone.setdefault(server.zone(change.name), []).append((change.name, change.type, change.remove, change.add))
        for name, rows in by_zone.items():
            server.change(name, ttl, rows)
        left = zone.differences(sets, {key: server.ask(*key) for key in zone.asked_for(sets)})
        if left:
            raise ValueError(f"the server took the update, and yet this is missing:\n{zone.text_to_paste(left, ttl)}")

    def _server(self, dns: Any, args: dict[str, Any], variables: dict[str, Any]) -> Any:
        """The secret is read from its variable here, so that it is in no task's arguments, which callbacks may print."""
        secret = str(self._templar.template(variables.get("mx_tsig_secret", "")) or "").strip()
        key = args["key"]
        try:
            base64.b64decode(secret, validate=True)  # dnspython skips what is none, and signs with the rest
            return dns.Server(
                args["server"]["address"],
                int(args["server"]["port"]),
                key_name=key["name"] if secret else "",
                secret=secret,
                algorithm=key["algorithm"],
            )
        except ValueError:
            raise ValueError("mx_server must be an IP address, and mx_tsig_secret base64") from None

    @staticmethod
    def _hosts(zone: Any, args: dict[str, Any], variables: dict[str, Any]) -> tuple[Any, ...]:
        """The hosts that take the mail: as given, or those of the inventory's group without those that this play removes."""
        if args["hosts"]:
            return tuple(
                zone.Host(
                    name=host["name"],
                    priority=int(host.get("priority", 10)),
                    addresses=tuple(host.get("addresses") or ()),
                    sure=bool(host.get("addresses")),
                )
                for host in args["hosts"]
                if args["state"] == "present"
            )
        members = variables.get("groups", {}).get(args["group"])
        if not members:
            raise ValueError(
                f"the inventory has no group {args['group']!r}: set mx_group to that of the mail hosts, or mx_hosts"
            )
        leaving = set(variables.get("ansible_play_hosts_all", ())) if args["state"] == "absent" else set()
        return tuple(_host(zone, member, variables["hostvars"][member]) for member in members if member not in leaving)


def _host(zone: Any, member: str, known: Any) -> Any:
    """A host by its variables; where none says its addresses, those that it has and that the world can reach."""
    given = [str(address) for address in known.get("mx_addresses") or ()]
    facts = known.get("ansible_facts") or {}
    seen = [str((facts.get(f"default_{family}") or {}).get("address") or "") for family in ("ipv4", "ipv6")]
    reachable = [address for address in seen if address and ipaddress.ip_address(address).is_global]
    return zone.Host(
        name=str(known.get("gatepost_host") or member),
        priority=int(known.get("mx_priority") or 10),
        addresses=tuple(given or reachable),
        sure=bool(given),
    )
