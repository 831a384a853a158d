"""The event loop comes first: gRPC's threads have a lower priority than the one that they hand calls to."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

# In a process of its own, for nobody but root may raise a priority again.
PROGRAM = """
import asyncio, json, os, threading
import grpc
from query_service.thread_priority import yield_to_event_loop

async def say(request, context):
    return request

def niceness():
    return {int(t): os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir("/proc/self/task")}

async def main():
    before, stopped = os.getpriority(os.PRIO_PROCESS, 0), threading.Event()
    lazy = threading.Thread(target=stopped.wait)
    lazy.start()
    os.setpriority(os.PRIO_PROCESS, lazy.native_id, 19)
    exporter = threading.Thread(target=stopped.wait)
    exporter.start()
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(say)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"Say": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    for _ in range(2):
        yield_to_event_loop([threading.current_thread(), exporter])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/a.B/Say")
        await asyncio.gather(*(call(b"x") for _ in range(200)))
    found = niceness()
    named = {"loop": os.getpid(), "lazy": lazy.native_id, "exporter": exporter.native_id}
    told = {name: found.pop(thread) for name, thread in named.items()}
    print(json.dumps({"before": before, **told, "others": list(found.values())}))
    stopped.set()
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority belongs to a whole process")
def test_threads_of_grpc_also_later_ones_yield_to_the_event_loop() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=60)
    niceness = orjson.loads(ran.stdout)
    assert niceness["loop"] == niceness["exporter"] == niceness["before"]
    assert niceness["lazy"] == 19
    assert niceness["others"]
    assert set(niceness["others"]) == {max(10, niceness["before"])}
