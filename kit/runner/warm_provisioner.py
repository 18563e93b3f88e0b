"""How jupyter_client gets a warm kernel: asked of a preloaded process, started cold where that says no."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Unicode

from kit.runner.warm import WarmKernel, launch


class WarmProvisioner(LocalProvisioner):  # type: ignore[misc]
    """A local kernel, forked where that is the same as started.

    Attributes:
        address: The socket of the preloaded process.
        cold: Why the kernel that runs is a cold one; empty for a warm one.
    """

    address = Unicode()
    cold = Unicode()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Launch a kernel and return its connection."""
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
            files = (nothing.fileno(), kwargs["stdout"].fileno(), kwargs["stderr"].fileno())
            found = await asyncio.to_thread(
                launch, cmd, address=self.address, cwd=str(kwargs["cwd"]), env=kwargs["env"], files=files
            )
        if not isinstance(found, WarmKernel):
            self.cold = found
            return await super().launch_kernel(cmd, **kwargs)
        self.process, self.pid, self.pgid, self.cwd = found, found.pid, found.pid, kwargs["cwd"]
        return self.connection_info
