"""What there is to try a method on: a tunnel world, rooms, a calculator, instructions and more."""
