"""The map that robots share: what each keeps, delivers, and finds of the others."""
