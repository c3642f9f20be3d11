"""The pages for people, as a browser sees them."""
