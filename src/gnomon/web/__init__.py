"""What every server of pages needs: a socket to listen on, and a guard at the door."""
