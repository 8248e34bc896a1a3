"""Functions as back ends: the route action `lambda` invokes a function of AWS Lambda for each request."""
