"""The order of S3 events of one (bucket, key). Pure. Never to be asked about two keys: S3 says nothing there."""

from __future__ import annotations


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as `left` happened before, with or after `right`.

    AWS: right-pad the shorter of the hexadecimal texts with zeros, then compare as text
    (docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html).
    """
    width = max(len(left), len(right))
    padded = (left.upper().ljust(width, "0"), right.upper().ljust(width, "0"))
    return (padded[0] > padded[1]) - (padded[0] < padded[1])
