"""Call trees that people and other tools can look at: as plain data, as a page, as OpenTelemetry spans."""
