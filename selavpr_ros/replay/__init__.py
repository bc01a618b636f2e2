"""A bag through the same PlaceRecognizer as the live node: results, metrics, plots."""
