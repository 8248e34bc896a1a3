"""The request pipeline, whatever protocol a request came by: the route is selected, its steps run."""
