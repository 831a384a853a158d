"""Takes S3 events from SQS and sees each one through. A message is deleted only when all its records are terminal."""

from ingest_service.consumer.consumer import Consumer
from ingest_service.consumer.model import TERMINAL, ConsumerConfig, ConsumerCounts, Handle, Outcome, Ready, retry
from ingest_service.consumer.queue import Queue

__all__ = [
    "TERMINAL",
    "Consumer",
    "ConsumerConfig",
    "ConsumerCounts",
    "Handle",
    "Outcome",
    "Queue",
    "Ready",
    "retry",
]
