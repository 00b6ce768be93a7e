"""How an epoch is executed fast; what is computed is defined in `portnet.training`."""
