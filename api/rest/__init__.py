"""REST: routes, their answers and the database of history."""
