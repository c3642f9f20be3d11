"""The routes, one noun a file: validate, call one use case, answer."""
