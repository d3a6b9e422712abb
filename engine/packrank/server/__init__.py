"""An HTTP server over engines: the routes, bodies and errors that rerankers' clients know."""
