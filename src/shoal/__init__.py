"""Many samples, moving as one."""
