"""The life of a flow run, from its claim to its end."""
