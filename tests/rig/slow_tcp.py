"""A TCP proxy that holds every byte back for a while: a server that is far away, or slow."""

import trio


class SlowProxy:
    """Forwards to a port of loopback; `delay_s` may be changed while it runs and holds for what comes after."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.port = 0
        self.delay_s = delay_s
        self._target = port

    async def serve(self, task_status: trio.TaskStatus["SlowProxy"] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started, its `port` is known."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            task_status.started(self)

    async def _carry(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            return
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, near, far, nursery.cancel_scope)
            nursery.start_soon(self._pump, far, near, nursery.cancel_scope)

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                await trio.sleep(self.delay_s / 2)  # half on the way there, half on the way back
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
