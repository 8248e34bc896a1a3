"""What becomes of an upstream under more than it can do, without a socket: clients, a gateway and a service in one heap
of events. What the gateway decides is decided by fastgw's own code; only time and the network are made up."""
