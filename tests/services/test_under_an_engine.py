"""The services over an engine's kernel: the engine does the work, the services' books follow."""

from __future__ import annotations

from pathlib import Path

import pytest

import ringflow
from ringflow.coordinator import MultiGpuCoordinator
from ringflow.hot_reload import HotReloadManager
from ringflow.migration import KernelMigrator
from tests.engine.kernels import MESSAGES, Add, adder, code
from tests.engine.story import send_all, state_of

pytestmark = pytest.mark.anyio


async def test_one_kernel_is_migrated_and_reloaded_by_its_engine(folder: Path) -> None:
    """Placed by the coordinator, moved by the migrator, reloaded by the manager, state kept."""
    async with ringflow.open_engine(folder, devices=("host:0", "host:1")) as engine:
        coordinator = MultiGpuCoordinator()
        for device in engine.devices():
            coordinator.register_device(
                device.name, memory_bytes=device.memory_bytes, free_bytes=device.free_bytes
            )
        spec = adder()
        place = coordinator.assign_kernel(spec.kernel_id, size_bytes=spec.state_bytes)
        kernel = await engine.launch(spec, device=place)
        await send_all(kernel, range(20))
        await (await kernel.send(Add(20))).done()
        state = await state_of(kernel)

        migrator = KernelMigrator(coordinator)
        request = coordinator.request_migration(spec.kernel_id, "host:1", actor="ops")
        moved = await migrator.migrate_with_checkpoint(kernel, request)
        assert (place, coordinator.device_of(spec.kernel_id)) == ("host:0", "host:1")
        assert engine.kernels()[0].device == "host:1"
        assert (await state_of(kernel))[:3] == state[:3]
        assert min(moved.checkpoint_s, moved.transfer_s, moved.restore_s) > 0
        assert migrator.stats.bytes_transferred == spec.state_bytes

        manager = HotReloadManager(coordinator=coordinator)
        manager.register_kernel(spec.kernel_id, spec.code, messages=MESSAGES)
        asked = manager.request_reload(spec.kernel_id, code("adder_double"))
        reloaded = await manager.execute_reload(asked, kernel)
        assert (reloaded.old_version, reloaded.new_version) == ("adder_v1", "adder_double")
        assert kernel.spec.code.version_id == manager.get_current_version(spec.kernel_id)
        assert min(reloaded.compile_s, reloaded.drain_s, reloaded.swap_s) > 0
        assert (await state_of(kernel))[:3] == state[:3]
