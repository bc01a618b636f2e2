"""Training of models, with which the embedded one was made: data, views, losses and one loop."""
