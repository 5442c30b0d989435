"""Analysis: pictures of what the models see and where they look."""
