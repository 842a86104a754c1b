"""What runs inside the sandbox: standard library only, loaded without the rest of gnomon."""
