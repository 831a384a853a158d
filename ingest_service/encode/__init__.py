"""Rows as protobuf wire bytes and as typed columns, whole Arrow arrays at a time. Never touches a driver or a row."""
