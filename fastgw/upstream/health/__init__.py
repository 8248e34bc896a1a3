"""Health of targets: active checks, outlier ejection, circuit breakers, and their listeners to attempts."""
