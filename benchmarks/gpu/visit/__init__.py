"""What `make gpu` does on a machine that is there for minutes: a plan, its steps, what is kept."""
