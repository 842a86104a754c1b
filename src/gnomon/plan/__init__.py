"""Which method, how much memory, how long, how much money: before a machine is booked."""
