"""Files: containers of named arrays with a checksum, and files that are written whole or not."""

__all__ = ["atomic", "container", "errors"]
