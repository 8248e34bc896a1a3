"""JSON texts: checked, searched, projected and merged by their bytes, and opened where a rule looks into them."""
