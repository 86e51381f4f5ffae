//! Lists of servers and pool files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memring_pool::config::{NodeSpec, Schemes, file::File, save_path};
use memring_pool::error::{Error, Kind};

fn sound(nodes: &[NodeSpec]) {
    for node in nodes {
        assert!(node.weight > 0 && !node.op_timeout.is_zero() && !node.connect_timeout.is_zero());
    }
}

fuzz_target!(|text: &str| {
    let none = |_: &str| Err(Error::new(Kind::Config, "no file"));
    if let Ok(wish) = save_path::parse(text, &Schemes::default(), &none) {
        assert!(!wish.topology.nodes.is_empty());
        sound(&wish.topology.nodes);
    }
    if let Ok(file) = File::parse("memring.toml", text) {
        for name in file.names() {
            if let Ok(topology) = file.pool(name) {
                sound(&topology.nodes);
            }
        }
    }
    let _ = NodeSpec::from_add_server(text, None, 11211, &Schemes::default());
});
