"""What happens to a request, whatever protocol it came by: the route is selected, its steps run."""
