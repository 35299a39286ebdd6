"""The instance protocol over HTTP (docs/instance-protocol.md), as runtime-image/server speaks it."""
