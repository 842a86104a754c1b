"""Work in other processes: of this machine, or wherever Ray finds room."""
