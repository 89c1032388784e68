"""The gRPC channels, and the two I/O drivers: one blocks, the other awaits."""
