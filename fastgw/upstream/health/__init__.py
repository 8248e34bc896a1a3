"""Health of targets: active checks, outlier ejection, circuit breakers, and who listens to attempts."""
