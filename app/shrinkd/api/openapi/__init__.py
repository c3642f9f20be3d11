"""The OpenAPI document: what FastAPI cannot know is added here."""
