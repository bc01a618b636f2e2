"""How the embedded model was made: data, views, targets, losses and one loop."""
