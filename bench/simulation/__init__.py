"""Simulation of an overloaded upstream, without sockets: clients, a gateway and a service in one event queue. The
gateway's decisions are made by fastgw's own code; only time and network are simulated."""
