"""The map that robots share: what a robot delivers to it, and finds there of the others."""
