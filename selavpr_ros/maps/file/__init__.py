"""A map as one durable SQLite file: what was added survives a power cut."""
