//! What the tests stand on: real servers on free loopback ports, stopped on drop.
