"""The half that talks to clusters: credentials, connections, headers from afar, downloads."""
