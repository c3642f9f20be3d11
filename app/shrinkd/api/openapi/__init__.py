"""The OpenAPI document: texts, declarations of responses for routes, and its completion."""
