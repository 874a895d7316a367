"""What runs in the confined process, and only there. Standard library only: nothing else is visible to it."""
