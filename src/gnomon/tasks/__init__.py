"""Built-in tasks: the tunnel's world, rooms, a calculator, instructions and more."""
