//! cargo xtask: the only build script there is.
fn main() {}
