"""Stage 4: mutual nearest neighbours, their geometry, and the order that they give."""
