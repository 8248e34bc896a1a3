"""What authentication filters share: bearer tokens, JWKS, htpasswd, the policy for verified tokens, identity
headers.
"""
