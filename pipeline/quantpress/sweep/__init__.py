"""Many at once: models x recipes x suites x workloads, as tasks of a Ray cluster. Ray alone schedules."""
