"""The options that every module of trinity.snap has."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation shared by the modules that run `trinity-snap` on the host."""

    DOCUMENTATION = r"""
options:
  policy:
    description:
      - Path of the policy on the host.
      - Without it, C(trinity-snap) uses E(TRINITY_SNAP_POLICY) or C(/etc/trinity-snap/policy.yml).
    type: path
  executable:
    description:
      - Path or name of the C(trinity-snap) command on the host.
    type: str
    default: trinity-snap
  docker_host:
    description:
      - Address of the Docker daemon, as in E(DOCKER_HOST).
      - Without it, the environment of the task and then Docker's own default decide.
    type: str
requirements:
  - trinity-snap on the host (role P(trinity.snap.install#role))
"""
