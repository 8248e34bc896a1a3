"""Small applications of real frameworks, run in `.venv/applications`: each says where it believes it is."""
