"""Which method, how much memory, how long and how much money: answered before a machine is booked."""
