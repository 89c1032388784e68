"""How a client's method becomes calls: flows, the retry loop, the choice of a server."""
