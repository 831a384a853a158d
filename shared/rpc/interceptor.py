"""The one interceptor: identity -> span -> in-flight tracking -> permission -> limits -> handler -> error mapping.

All four kinds of RPC pass through the same `_run`. Requests are parsed only after the caller was let in, and no text
of an unexpected exception leaves the process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc

from shared.errors import Unimplemented
from shared.rpc.admission import Admission
from shared.rpc.call import Call
from shared.rpc.identity import CALLER, Identity, Policy, read_identity
from shared.rpc.inflight import InFlight, draining
from shared.rpc.observation import NO_PARENT, MethodObserver, Observer, parent_of
from shared.rpc.parsing import guarded, parsed
from shared.rpc.status import status_of

_LOG = logging.getLogger(__name__)

# Quoted: gRPC's classes are generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
# For calls without and with a span of the caller's, which their metadata tell before they run.
Wrapped: TypeAlias = "tuple[Handler, Handler]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Respond: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

# The client's own timer ends an RPC a little before the server's: one trip earlier, and timeouts travel rounded up.
_DEADLINE_SLACK_S = 0.05
_NOBODY = Identity()
_UNKNOWN_METHOD = "_OTHER"  # the conventions' word, so that callers cannot invent metric series


class RpcInterceptor(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Wraps every method of `handlers`; one instance a server, on one event loop.

    Handed to the server in their place: a `grpc.aio.ServerInterceptor` would cost each call two coroutines more.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler[Any, Any]],
        *,
        policy: Policy,
        admission: Admission,
        in_flight: InFlight,
        observer: Observer,
    ) -> None:
        self._handlers = handlers
        self._policy = policy
        self._admission = admission
        self._in_flight = in_flight
        self._observer = observer
        self._trace_headers = observer.trace_headers
        self._loop = asyncio.get_running_loop()
        self._wrapped: dict[str, Wrapped] = {}
        # As a stream, because it answers whatever kind the client takes the method for, before any message.
        self._unknown = self._wrap(grpc.stream_stream_rpc_method_handler(_not_served), _UNKNOWN_METHOD)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The wrapped handler of the method; an unknown method answers, after the permission check, UNIMPLEMENTED."""
        without, within = self._wrapped.get(handler_call_details.method) or self._found(handler_call_details)
        for key, _ in handler_call_details.invocation_metadata or ():
            if key in self._trace_headers:
                return within
        return without

    def _found(self, details: grpc.HandlerCallDetails) -> Wrapped:
        found = (handler for handlers in self._handlers if (handler := handlers.service(details)) is not None)
        handler = next(found, None)
        if handler is None:
            return self._unknown
        wrapped = self._wrapped[details.method] = self._wrap(handler, details.method.removeprefix("/"))
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Wrapped:
        observer = MethodObserver(method, self._observer)
        respond = _streams(handler) if handler.response_streaming else _responds(handler)
        without, within = (self._runner(observer, respond, has_parent=has_parent) for has_parent in (False, True))
        return _like(handler, without), _like(handler, within)

    def _runner(self, observer: MethodObserver, respond: Respond, *, has_parent: bool) -> Respond:
        """What runs each RPC of a method.

        A plain function, as gRPC looks at every call whether it is one, and takes 1 us for a partial of a method.
        """
        policy, admission, in_flight, loop = self._policy, self._admission, self._in_flight, self._loop

        async def run(request: Any, context: Context) -> Any:
            identity = read_identity(context.auth_context()) if policy.required else _NOBODY
            task = asyncio.current_task(loop)  # with the loop: Python 3.11 makes a system call to find the running one
            assert task is not None, "an RPC handler runs in a task"
            call = observer.begin(identity, parent_of(context) if has_parent else NO_PARENT)
            in_flight.begin(call, task)
            admitted = False
            try:
                policy.check(identity)
                in_flight.admit(call)
                if not call.background:
                    CALLER.set(call.identity)
                    admission.enter(call.identity)
                    admitted = True
                response = await respond(request, context)
                if context.code() is not None:
                    call.code = _code_of(context)
            except asyncio.CancelledError as exc:
                await _cancelled(exc, call, task, context)
            except grpc.aio.AbortError:
                call.code = _code_of(context)
                raise
            except grpc.aio.BaseError:  # a write to a client that has gone
                call.code = grpc.StatusCode.CANCELLED
                raise
            except Exception as exc:  # noqa: BLE001 - _fail answers with a status and logs what is not expected
                await _fail(exc, context, call)
            else:
                return response
            finally:
                if admitted:
                    admission.leave(call.identity)
                in_flight.end(call)
                observer.end(call, context)

        return run


def _like(handler: Handler, run: Any) -> Handler:
    """A handler of the same kind; what is not a stream arrives and leaves as bytes."""
    if not handler.request_streaming:
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(run, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(run)
    parse = guarded(handler.request_deserializer)
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(run, parse, handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(run, parse)


def _responds(handler: Handler) -> Respond:
    """The one response of a method, as bytes."""
    behavior: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
    parse = None if handler.request_streaming else handler.request_deserializer
    serialize = handler.response_serializer
    if parse is None and serialize is None:
        return behavior  # type: ignore[no-any-return]

    async def respond(request: Any, context: Context) -> Any:
        response = await behavior(parsed(request, parse), context)
        # A handler that has set a non-OK code itself owes no message.
        return b"" if response is None else serialize(response) if serialize else response

    return respond


def _streams(handler: Handler) -> Respond:
    """Writes the responses of a method.

    Always a coroutine that writes, never a generator: everything then runs in one task, the span's, and a cancelled RPC
    closes the handler's generator at once.
    """
    behavior: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
    parse = None if handler.request_streaming else handler.request_deserializer

    async def respond(request: Any, context: Context) -> None:
        responses = behavior(parsed(request, parse), context)
        if inspect.isawaitable(responses):
            await responses
            return
        async with aclosing(responses):
            async for response in responses:
                await context.write(response)

    return respond


async def _cancelled(exc: asyncio.CancelledError, call: Call, task: asyncio.Task[Any], context: Context) -> NoReturn:
    if call.interrupted:
        task.uncancel()
        await _fail(draining(), context, call)
    if not task.cancelling():
        # Nobody cancelled the RPC, something inside it was: without a status the caller would wait for ever.
        await _fail(exc, context, call)
    call.code = grpc.StatusCode.DEADLINE_EXCEEDED if _out_of_time(context) else grpc.StatusCode.CANCELLED
    raise exc


def _out_of_time(context: Context) -> bool:
    remaining_s = context.time_remaining()
    return remaining_s is not None and remaining_s <= _DEADLINE_SLACK_S


async def _fail(exc: BaseException, context: Context, call: Call) -> NoReturn:
    if isinstance(exc.__cause__, TimeoutError) and _out_of_time(context):
        # A wait was cut to the caller's deadline: that is no outage, and nothing to retry.
        exc = exc.__cause__
    status = status_of(exc, call.trace_id)
    call.code = status.code
    if status.code is grpc.StatusCode.INTERNAL:
        call.span.record_exception(exc)
        _LOG.error("%s failed", call.method, exc_info=exc, extra={"trace_id": call.trace_id})
    try:
        await context.abort(status.code, status.message, status.trailing)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:  # the caller's deadline was first; gRPC would log it as our failure
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if _out_of_time(context) else grpc.StatusCode.CANCELLED
        raise asyncio.CancelledError from gone
    raise AssertionError("abort always raises")


def _code_of(context: Context) -> grpc.StatusCode:
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


async def _not_served(_requests: object, _context: Context) -> NoReturn:
    raise Unimplemented("this server has no such method", reason="UNKNOWN_METHOD")
