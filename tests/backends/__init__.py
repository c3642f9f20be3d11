"""Every backend under one conformance suite, then what is each one's own."""
