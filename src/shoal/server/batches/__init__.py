"""/v1/files and /v1/batches: requests by the file, answered by the engine that answers them one by one."""
