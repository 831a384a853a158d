"""The one interceptor: identity -> span -> in-flight tracking -> permission -> limits -> handler -> error mapping.

All four kinds of RPC pass through the same `_run`. Requests are parsed only after the caller was let in, and no text
of an unexpected exception leaves the process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from shared.errors import FieldViolation, InvalidRequest, Unimplemented
from shared.rpc.admission import Admission
from shared.rpc.identity import CALLER, Identity, Policy, read_identity
from shared.rpc.inflight import Call, InFlight, draining
from shared.rpc.observation import Observation, Observer
from shared.rpc.status import status_of

_LOG = logging.getLogger(__name__)

# Quoted: gRPC's classes are generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Deserializer: TypeAlias = Callable[[bytes], Any] | None

# The client's own timer ends an RPC a little before the server's: one trip earlier, and timeouts travel rounded up.
_DEADLINE_SLACK_S = 0.05
_UNKNOWN_METHOD = "_OTHER"  # the conventions' word, so that callers cannot invent metric series


class RpcInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every method of a server; one instance a server, on one event loop."""

    def __init__(self, *, policy: Policy, admission: Admission, in_flight: InFlight, observer: Observer) -> None:
        self._policy = policy
        self._admission = admission
        self._in_flight = in_flight
        self._observer = observer
        self._wrapped: dict[str, Handler] = {}
        # As a stream, because it answers whatever kind the client takes the method for, before any message.
        self._unknown = self._wrap(grpc.stream_stream_rpc_method_handler(_not_served), _UNKNOWN_METHOD)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The wrapped handler of the method; an unknown method answers, after the permission check, UNIMPLEMENTED."""
        method = handler_call_details.method.removeprefix("/")
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return self._unknown
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Handler, method: str) -> Handler:
        if handler.response_streaming:
            behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return self._wrap_stream(handler, method, behavior)
        behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return self._wrap_unary(handler, method, behavior)

    def _wrap_unary(self, handler: Handler, method: str, behavior: Any) -> Handler:
        parse = None if handler.request_streaming else handler.request_deserializer
        serialize = handler.response_serializer

        async def unary(request: Any, context: Context) -> Any:
            async def respond() -> Any:
                response = await behavior(_parsed(request, parse), context)
                # A handler that has set a non-OK code itself owes no message.
                return b"" if response is None else serialize(response) if serialize else response

            return await self._run(method, context, respond)

        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, _guarded(handler.request_deserializer))
        return grpc.unary_unary_rpc_method_handler(unary)

    def _wrap_stream(self, handler: Handler, method: str, behavior: Any) -> Handler:
        parse = None if handler.request_streaming else handler.request_deserializer

        # Always a coroutine that writes, never a generator: everything between attach and detach of the span then
        # runs in one task, and a cancelled RPC closes the handler's generator at once.
        async def stream(request: Any, context: Context) -> None:
            async def respond() -> None:
                responses = behavior(_parsed(request, parse), context)
                if inspect.isawaitable(responses):
                    await responses
                    return
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)

            await self._run(method, context, respond)

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                stream, _guarded(handler.request_deserializer), handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)

    async def _run(self, method: str, context: Context, respond: Callable[[], Awaitable[Any]]) -> Any:
        identity = read_identity(context.auth_context()) if self._policy.required else Identity()
        with self._observer.observe(method, identity, context) as seen, self._in_flight.track(method) as call:
            try:
                self._policy.check(identity)
                self._in_flight.admit(call)
                response = await (respond() if call.background else self._admitted(identity.principal, respond))
            except asyncio.CancelledError as exc:
                await _cancelled(exc, call, context, seen)
            except grpc.aio.AbortError:
                seen.code = _code_of(context)
                raise
            except grpc.aio.BaseError:  # a write to a client that has gone
                seen.code = grpc.StatusCode.CANCELLED
                raise
            except Exception as exc:  # noqa: BLE001 - _fail answers with a status and logs what is not expected
                await _fail(exc, context, seen)
            seen.code = _code_of(context)
            return response

    async def _admitted(self, caller: str, respond: Callable[[], Awaitable[Any]]) -> Any:
        CALLER.set(caller)
        self._admission.enter(caller)
        try:
            return await respond()
        finally:
            self._admission.leave(caller)


async def _cancelled(exc: asyncio.CancelledError, call: Call, context: Context, seen: Observation) -> NoReturn:
    if call.interrupted:
        call.task.uncancel()
        await _fail(draining(), context, seen)
    if not call.task.cancelling():
        # Nobody cancelled the RPC, something inside it was: without a status the caller would wait for ever.
        await _fail(exc, context, seen)
    seen.code = grpc.StatusCode.DEADLINE_EXCEEDED if _out_of_time(context) else grpc.StatusCode.CANCELLED
    raise exc


def _out_of_time(context: Context) -> bool:
    remaining_s = context.time_remaining()
    return remaining_s is not None and remaining_s <= _DEADLINE_SLACK_S


async def _fail(exc: BaseException, context: Context, seen: Observation) -> NoReturn:
    if isinstance(exc.__cause__, TimeoutError) and _out_of_time(context):
        # A wait was cut to the caller's deadline: that is no outage, and nothing to retry.
        exc = exc.__cause__
    status = status_of(exc, seen.trace_id)
    seen.code = status.code
    if status.code is grpc.StatusCode.INTERNAL:
        seen.span.record_exception(exc)
        _LOG.error("%s failed", seen.method, exc_info=exc, extra={"trace_id": seen.trace_id})
    try:
        await context.abort(status.code, status.message, status.trailing)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:  # the caller's deadline was first; gRPC would log it as our failure
        seen.code = grpc.StatusCode.DEADLINE_EXCEEDED if _out_of_time(context) else grpc.StatusCode.CANCELLED
        raise asyncio.CancelledError from gone
    raise AssertionError("abort always raises")


def _code_of(context: Context) -> grpc.StatusCode:
    code = context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


def _parsed(request: Any, parse: Deserializer) -> Any:
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError as exc:
        violation = FieldViolation(field="", description="the request is not a message of the method's request type")
        raise InvalidRequest([violation], reason="MALFORMED_REQUEST") from exc


def _guarded(parse: Deserializer) -> Deserializer:
    return None if parse is None else lambda raw: _parsed(raw, parse)


async def _not_served(_requests: object, _context: Context) -> NoReturn:
    raise Unimplemented("this server has no such method", reason="UNKNOWN_METHOD")
