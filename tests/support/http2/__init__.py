"""HTTP/2 by hand: frames, a client that sends them and tells what came, and the hostile cases that are made of them."""
