"""A policy file with every setting explained, and the reference (docs/policy.md), both from the schema.

`python -m trinity_snap.policy.render > docs/policy.md` brings the reference up to date, and
`python -m trinity_snap.policy.render example > docs/policy.example.yml` the example.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping

from trinity_snap.policy.fields import in_yaml, walk
from trinity_snap.policy.schema import Override, Policy, ReplicaSection, Rule, Section, TargetSection

EXAMPLE_VALUES: Mapping[str, object] = {"version": 1, "target.url": "/mnt/backup/trinity-snap"}
"""What docs/policy.example.yml sets; all else is at its default."""

_WIDTH = 100
_HEAD = """\
# The policy of trinity-snap on this host: what is protected, how, and where to.
# A setting with a # in front is at its default. `trinity-snap policy check` finds mistakes,
# `trinity-snap policy show` says what holds and why.
"""
_EXAMPLES: dict[str, str] = {
    "keys.identity_command": "[ansible-vault, view, --vault-password-file, /root/vault-password, identity.vault]",
    "target.endpoint": "https://s3.example.org",
    "target.credentials_file": "s3-credentials",
    "replicas": "[{name: offsite, url: s3://backups/host1, credentials_file: s3-credentials}]",
    "target.ssh_key_file": "ssh-key",
    "agents.rules": '[{name: databases, label: "com.example.backup=yes", volumes: ["*-data"]}]',
    "agents.exclude": '["scratch-*"]',
    "platform.paths": "[/opt/trinity/trinity-data, /opt/trinity/.env]",
    "exclude": '["*/node_modules", "*.tmp"]',
    "drill.ignore": '["*/broken-examples/*"]',
    "drill.schedule": "Sun 03:00",
    "schedule.backup": '"*-*-* 0/6:00"',
    "schedule.verify": "daily",
    "schedule.prune": "weekly",
    "drill.max_age": "30d",
    "monitor.textfile": "/var/lib/prometheus/node-exporter/trinity-snap.prom",
    "monitor.ping": "https://hc-ping.com/5c0b3b4e-0000-4000-8000-000000000000",
    "monitor.notify_file": "notify",
    "monitor.trinity_key_file": "trinity-agent-key",
    "overrides": "{researcher: {exclude: [content/cache], quiesce: {mode: hooks, drain: true}}}",
}


def render_policy(values: Mapping[str, object]) -> str:
    """A commented policy file: the settings in `values` (by dotted name) are set, others at their default."""
    lines = _HEAD.splitlines()
    lines += _section(Policy, "", "", values)
    return "\n".join(lines) + "\n"


def _section(model: type[Section], prefix: str, indent: str, values: Mapping[str, object]) -> Iterator[str]:
    for setting in walk(model, prefix, deep=False):
        if not indent:
            yield ""
        key = setting.name.rpartition(".")[2]
        for line in textwrap.wrap(setting.description, _WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
        if setting.section is not None and not setting.many:
            yield f"{indent}{key}:"
            yield from _section(setting.section, f"{setting.name}.", f"{indent}  ", values)
            continue
        if setting.name in _EXAMPLES:
            yield f"{indent}# Example: {key}: {_EXAMPLES[setting.name]}"
        mark = "" if setting.name in values else "#"
        yield f"{indent}{mark}{key}: {in_yaml(setting.name, values.get(setting.name, setting.default))}"


def render_reference() -> str:
    """docs/policy.md: every setting with its default, what it may be, and what it is for."""
    parts = [_INTRODUCTION, *_table(Policy, "")]
    parts += ["", "## A replica", "", f"{_first_line(ReplicaSection)} In `replicas`, a list.", ""]
    parts += _rows(ReplicaSection, besides=TargetSection.model_fields.keys() - {"url"})
    parts += ["", "## A rule", "", f"{_first_line(Rule)} In `agents.rules`, a list.", "", *_rows(Rule)]
    parts += ["", "## An override", "", f"{_first_line(Override)} In `overrides`, by agent name.", ""]
    parts += [*_rows(Override), "", _EXAMPLE.rstrip()]
    return "\n".join(parts) + "\n"


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of a policy file."""
    schema: dict[str, object] = Policy.model_json_schema(mode="validation")
    properties = schema["properties"]
    assert isinstance(properties, dict)
    target = properties["target"]
    short = {"type": "string", "pattern": "^(/|file:|s3:|sftp:)"}
    properties["target"] = {"anyOf": [{"$ref": "#/$defs/TargetSection"}, short], "description": target["description"]}
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for section, drain in (("QuiesceSection", "DrainSection"), ("QuiesceOverride", "DrainOverride")):
        inner = definitions[section]["properties"]
        reference = {"$ref": f"#/$defs/{drain}"}
        inner["drain"] = {"anyOf": [reference, {"type": "boolean"}], "description": inner["drain"]["description"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _table(model: type[Section], prefix: str) -> Iterator[str]:
    yield ""
    yield f"## {'General' if not prefix else '`' + prefix.removesuffix('.') + '`'}"
    yield ""
    if prefix:
        yield _first_line(model)
        yield ""
    inner: list[tuple[type[Section], str]] = []
    rows = []
    for setting in walk(model, prefix, deep=False):
        if setting.section is not None and not setting.many:
            inner.append((setting.section, f"{setting.name}."))
        else:
            rows.append(
                f"| `{setting.name}` | {_default(setting.name, setting.default, setting.required)} "
                f"| {setting.allowed} | {setting.description} |"
            )
    if rows:
        yield from (*_HEADER, *rows)
    for section, name in inner:
        yield from _table(section, name)


def _rows(model: type[Section], besides: Collection[str] = ()) -> Iterator[str]:
    yield from _HEADER
    for setting in walk(model):
        if setting.section is None and setting.name not in besides:
            yield (
                f"| `{setting.name}` | {_default(setting.name, setting.default, setting.required)} "
                f"| {setting.allowed} | {setting.description} |"
            )


def _default(name: str, default: object, required: bool) -> str:
    return "(must be given)" if required else f"`{in_yaml(name, default)}`"


def _first_line(model: type[Section]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


_HEADER = ("| setting | default | allowed | what it is for |", "|---|---|---|---|")

_INTRODUCTION = """\
# The policy

What trinity-snap protects on a host, how agents hold still, and where recovery points go. It is one YAML
file: `--policy PATH`, else `$TRINITY_SNAP_POLICY`, else `/etc/trinity-snap/policy.yml`. `trinity-snap init`
writes one in which every setting is explained; an empty file is a valid policy, too. A setting that is not
known is an error, never ignored:

    $ trinity-snap policy check
    policy.yml:7: quiesce.budget_second: there is no such setting; did you mean `budget_seconds`?

`trinity-snap policy show` prints what holds and where each value comes from, with `--agent NAME` for one
agent; `trinity-snap policy schema` prints the JSON Schema, for editors. A policy that anybody may write to is
refused.

`policy.example.yml` is the file that `init` writes.

This page is written from the schema (`python -m trinity_snap.policy.render`); a test keeps it up to date."""

_EXAMPLE = """\
## An example

```yaml
version: 1
target: /mnt/backup/trinity-snap
agents:
  exclude: [scratch-*]
  rules:
    - name: databases
      label: com.example.backup=yes
      volumes: ["*-data"]
      agent: "db-{container}"
platform:
  paths: [/opt/trinity/trinity-data, /opt/trinity/.env]
quiesce:
  budget_seconds: 3
  on_budget_exceeded: fail
snapshot:
  precopy:
    settle_bytes: 16MiB
overrides:
  researcher:
    exclude: [content/cache]
  ledger:
    quiesce:
      mode: hooks
      hooks:
        before: sqlite3 ~/data/ledger.db "pragma wal_checkpoint(truncate)"
      drain: true
```
"""

if __name__ == "__main__":
    sys.stdout.write(render_policy(EXAMPLE_VALUES) if sys.argv[1:] == ["example"] else render_reference())
