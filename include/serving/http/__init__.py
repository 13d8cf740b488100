"""A request over HTTP, from the bytes on the connection to the handler and back."""
