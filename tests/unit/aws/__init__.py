"""Formats of AWS, compared with botocore."""
