"""What surrounds every route: request ids, authentication, the audit, the host check, bounds."""
