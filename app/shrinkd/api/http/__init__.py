"""HTTP rules that routes share: references, preconditions, pages, idempotency, problems."""
