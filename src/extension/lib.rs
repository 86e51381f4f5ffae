//! The PHP face of memring: translates, decides nothing.
